"""The settings of segmentation."""

from typing import Annotated, Literal

from pydantic import Field

from nexus.config import Config, Share

Positive = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0)]


class SegmentationConfig(Config):
    """Which heads, on which crops, for how long; and how label maps are read."""

    heads: tuple[Literal["linear", "ms", "knn"], ...] = Field(default=("linear", "knn"), min_length=1)
    """`linear`, `ms`, `knn`; the first gives the headline."""
    crop: Positive | None = None
    """Side of training crops and test windows in pixels; left out: the backbone's own size."""
    resolution: Positive | None = None
    """Shorter side of the images in pixels; left out: the crop, but at least 16 patches."""
    iterations: Positive | None = None
    """Steps of training; left out: 32 passes over the images, between 500 and the official 40,000."""
    batch_size: Positive = 16
    """Crops in a step."""
    views: Positive | None = None
    """Random crops kept of each training image; left out: 8. More is nearer to fresh crops in every step."""
    learning_rates: tuple[Rate, ...] = Field(default=(1e-3, 1e-2), min_length=1)
    """The best on held-out training images is taken; a single one is taken as it is."""
    weight_decay: float = Field(default=1e-4, ge=0)
    """Of AdamW."""
    held_out: Share = 0.2
    """Share of the training images that chooses the learning rate."""
    scales: tuple[Rate, ...] = Field(default=(1.0, 1.32, 1.73), min_length=1)
    """Sizes at which `ms` is tested, times `resolution`."""
    neighbors: Positive = 30
    """Patches that vote in `knn`."""
    memory: Positive = 20_000
    """Labelled training patches that `knn` remembers."""
    temperature: Rate = 0.07
    """Of the votes of `knn`."""
    classes: Positive | None = None
    """Number of classes; left out: those that a file names, or the numbers that are found."""
    ignore: tuple[int, ...] = (255,)
    """Stored numbers that mean "no label"."""
    zero: Literal["auto", "class", "void"] = "auto"
    """What a stored 0 means; `auto`: `void` in ADE20K's layout, else a class."""
    palette: str | None = None
    """A file with `red green blue name` a line, where label maps are colour pictures."""
    seed: int = Field(default=0, ge=0)
    """Of crops and weights; further seeds follow it."""
