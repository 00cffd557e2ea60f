"""Images with a truth for every pixel: what an evaluation of dense features reads."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Shaped
from PIL import Image

from nexus.data.dense.pairs import Pair
from nexus.data.images import DEFAULT_LIMITS, ImageLimits, decode_image
from nexus.errors import DataError

VOID = -1
"""The label of pixels that do not count, whatever number a file uses for them."""

Truth = Shaped[np.ndarray, "height width"]
TruthReader = Callable[[bytes, str], Truth]
"""From a file's bytes and name to int32 labels (`VOID`: no label) or float32 metres (0: not measured)."""

ASPECT_TOLERANCE = 0.01


@dataclass(frozen=True)
class DenseSample:
    """An RGB image and its truth, which may be smaller or larger but shows the same field of view."""

    image: Image.Image
    truth: Truth
    name: str


class DenseDataset:
    """A numbered collection of images with a label map or a depth map each.

    classes      names of the labels 0, 1, ...; empty for depth
    description  one phrase for people
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        read_truth: TruthReader,
        description: str,
        classes: tuple[str, ...] = (),
        limits: ImageLimits = DEFAULT_LIMITS,
    ) -> None:
        self.pairs = tuple(pairs)
        self.read_truth = read_truth
        self.description = description
        self.classes = classes
        self.limits = limits

    def __len__(self) -> int:
        return len(self.pairs)

    def name(self, i: int) -> str:
        """The image's name inside its source."""
        return self.pairs[i].name

    def image(self, i: int) -> Image.Image:
        """The upright RGB image; raises `ImageError` where it cannot be used."""
        pair = self.pairs[i]
        return decode_image(pair.image.read(), pair.name, self.limits)

    def truth(self, i: int) -> Truth:
        """The truth of image `i`, as `TruthReader` has it; raises `ImageError` or `DataError`."""
        entry = self.pairs[i].truth
        return self.read_truth(entry.read(), entry.name)

    def __getitem__(self, i: int) -> DenseSample:
        if not 0 <= i < len(self):
            raise IndexError(f"image {i} of a data set of {len(self)}")
        image, truth = self.image(i), self.truth(i)
        check_aspect(image.size, (truth.shape[1], truth.shape[0]), self.name(i), self.pairs[i].truth.name)
        return DenseSample(image, truth, self.name(i))

    def subset(self, indices: Sequence[int]) -> "DenseDataset":
        """Some of the images, in that order."""
        chosen = [self.pairs[int(i)] for i in indices]
        description = f"{len(chosen):,} of {self.description}"
        return DenseDataset(chosen, self.read_truth, description, self.classes, self.limits)


def check_aspect(image: tuple[int, int], truth: tuple[int, int], name: str, truth_name: str) -> None:
    """`DataError` unless both (width, height) have one aspect, a pixel of rounding aside.

    Truths at another scale are usual (depth at half the size) and are compared at their own size. Another
    aspect means that they show something else: a crop, a rotated image, the wrong file.
    """
    scale = truth[0] / image[0]
    slack = max(1.0, ASPECT_TOLERANCE * truth[1], scale)
    if abs(truth[1] - image[1] * scale) <= slack:
        return
    turned = truth[0] * image[0] == truth[1] * image[1] and image[0] != image[1]
    cause = " (one of them is turned: perhaps the image's EXIF orientation)" if turned else ""
    raise DataError(
        f"{name} has {image[0]} × {image[1]} pixels, but its truth {truth_name} has {truth[0]} × "
        f"{truth[1]}, which is "
        f"another aspect{cause}, so the two do not show the same; pair the right files, or crop both alike"
    )
