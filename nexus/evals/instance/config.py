"""The settings of the instance task."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from nexus.config import Config


class InstanceConfig(Config):
    """Mask R-CNN (Faster R-CNN where there are boxes only) on patch features."""

    finetune: bool = False
    """Whether a copy of the backbone is trained too; frozen otherwise."""
    grid: PositiveInt = 32
    """Patches along the longer side of an image; the image is resized so, the rest of a square is padding."""
    width: PositiveInt | None = None
    """Channels of the feature pyramid; left out: 128, on a CPU 64."""
    box_width: PositiveInt | None = None
    """Width of the box head; left out: 512, on a CPU 256."""
    proposals: PositiveInt | None = None
    """Regions of an image that the heads look at; left out: 300, on a CPU 100."""
    finest: Literal[1, 2, 4] | None = None
    """Cells of the finest level along a patch; left out: 4, on a CPU 2. Fewer miss small objects."""
    learning_rate: PositiveFloat = 5e-4
    """Peak learning rate of AdamW, after a warm-up of a tenth of the steps; cosine to 0."""
    backbone_rate: PositiveFloat = 0.05
    """The backbone's learning rate as a part of that, with `finetune`."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    """Weight decay of AdamW."""
    batch_size: PositiveInt = 4
    """Images of a step."""
    epochs: PositiveInt = 12
    """Passes over the training images, within `min_steps` and `max_steps`."""
    min_steps: NonNegativeInt | None = None
    """Fewest steps, which decides for small data; left out: 500, on a CPU 200."""
    max_steps: PositiveInt | None = None
    """Most steps; left out: 90,000, on a CPU 600."""
    min_score: Annotated[float, Field(ge=0, lt=1)] = 0.01
    """Detections below this score are dropped."""
    resamples: PositiveInt = 200
    """Resamples of the bootstrap; one score takes long with many classes."""
    shown: NonNegativeInt = 6
    """Images in the picture of detections."""
    seed: int = 0
    """Seed of the first weights, the order of the images and the bootstrap."""
