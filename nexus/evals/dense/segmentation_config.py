"""The settings of segmentation."""

from typing import Literal

from pydantic import Field

from nexus.evals.dense.head_config import HeadConfig, Positive, Rate


class SegmentationConfig(HeadConfig):
    """Which heads, on which crops, for how long; and how label maps are read."""

    heads: tuple[Literal["linear", "ms", "knn"], ...] = Field(default=("linear", "knn"), min_length=1)
    """`linear`, `ms`, `knn`; the first gives the headline."""
    crop: Positive | None = None
    """Side of training crops and test windows in pixels; left out: the backbone's own size."""
    resolution: Positive | None = None
    """Shorter side of the images in pixels; left out: the crop, but at least 16 patches."""
    iterations: Positive | None = None
    """Steps of training; left out: 32 passes over the images, between 500 and the official 40,000."""
    weight_decay: float = Field(default=1e-4, ge=0)
    """Of AdamW."""
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
