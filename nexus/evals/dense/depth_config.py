"""The settings of depth."""

from typing import Annotated, Literal

from pydantic import Field

from nexus.evals.dense.head_config import HeadConfig, Positive, Rate


class DepthConfig(HeadConfig):
    """Which heads, for how long, which pixels count; and how depth maps are read."""

    heads: tuple[Literal["linear", "linear4", "dpt"], ...] = Field(default=("linear",), min_length=1)
    """`linear`, `linear4` (four layers), `dpt`; the first gives the headline."""
    resolution: Positive | None = None
    """Shorter side of the images in pixels; left out: the backbone's own size, but at least 16 patches."""
    iterations: Positive | None = None
    """Steps of training; left out: 25 passes over the images, between 500 and the official 38,400."""
    weight_decay: float = Field(default=1e-2, ge=0)
    """Of AdamW."""
    clip: Rate = 35.0
    """Largest norm of the gradient of a head."""
    channels: Annotated[int, Field(ge=2)] = 256
    """Width of the DPT head."""
    min_depth: Rate = 1e-3
    """Metres; nearer pixels do not count."""
    max_depth: Rate | None = None
    """Metres; farther pixels do not count. Left out: 10 for NYUv2, 80 for KITTI, else by training depths."""
    eval_crop: Literal["auto", "none", "nyu", "garg", "eigen"] = "auto"
    """Which part of an image is scored; `auto`: `nyu` for NYUv2, `garg` for KITTI, else all of it."""
    flip: bool = True
    """Average the prediction with that of the mirrored image."""
    scale: Rate | None = None
    """Stored numbers per metre; left out: as the data say, else 1000."""
