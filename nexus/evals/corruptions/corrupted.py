"""A data set whose images are corrupted when they are read."""

import numpy as np
from PIL import Image

from nexus.data.batch import Sample
from nexus.data.datasets import ImageDataset
from nexus.data.transforms import as_rgb
from nexus.evals.corruptions.kinds import corrupt


class CorruptedDataset:
    """The images of `base`, shorter side `side` pixels (bicubic), with one corruption.

    They are resized first, so that the corruption is what the backbone sees and not half resized away. The
    same seed gives the same pictures, whatever the subset or the order.
    """

    def __init__(self, base: ImageDataset, kind: str, severity: int, side: int, seed: int = 0) -> None:
        self.base = base
        self.kind, self.severity, self.side, self.seed = kind, severity, side, seed
        self.labels = base.labels
        self.description = f"{base.description}, {kind} {severity} of 5 at {side} pixels, seed {seed}"

    def __len__(self) -> int:
        return len(self.base)

    def name(self, i: int) -> str:
        """The name in the base data set."""
        return self.base.name(i)

    def __getitem__(self, i: int) -> Sample:
        sample = self.base[i]
        image = resized(sample.image, self.side)
        pixels = corrupt(np.asarray(image), self.kind, self.severity, seed=self.seed, name=sample.name)
        return Sample(Image.fromarray(pixels), sample.name, sample.index, sample.label)


def resized(image: Image.Image, side: int) -> Image.Image:
    """The RGB image with that shorter side."""
    image = as_rgb(image)
    short = min(image.size)
    size = tuple(max(1, int(side * length / short)) for length in image.size)
    return image if image.size == size else image.resize((size[0], size[1]), Image.Resampling.BICUBIC)
