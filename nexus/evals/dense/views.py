"""What a head learns from and is tested on: random crops of images with their truth, and whole images.

The box of a crop is chosen first; then only that part of the image is resized (bicubic, antialiased), and the
truth is read at the pixels' centres (nearest). What a crop has too little of is void, or not measured, and
the mean colour in the image.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Shaped, UInt8
from PIL import Image
from torch import Tensor

from nexus.data.dense import DenseDataset, DenseSample
from nexus.data.parallel import all_cores, in_order
from nexus.data.transforms import IMAGENET_MEAN, to_tensor
from nexus.errors import DataError, ImageError

MEAN_COLOUR = tuple(round(255 * mean) for mean in IMAGENET_MEAN)
Size = tuple[int, int]


@dataclass(frozen=True)
class View:
    """One crop as bytes, and its truth pixel by pixel."""

    pixels: UInt8[Tensor, "3 height width"]
    truth: Shaped[Tensor, "height width"]


@dataclass(frozen=True)
class Box:
    """A part of a scaled image: the image's size after scaling, and what is cut out of it, in its pixels."""

    scaled: Size
    top: int
    left: int
    height: int
    width: int

    def image_box(self, image: Image.Image) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of the part in the pixels of the image itself."""
        down, across = image.height / self.scaled[0], image.width / self.scaled[1]
        right, bottom = self.left + self.width, self.top + self.height
        return self.left * across, self.top * down, right * across, bottom * down

    def truth(self, truth: Shaped[np.ndarray, "height width"]) -> Shaped[np.ndarray, "box_height box_width"]:
        """The truth at the centres of the part's pixels."""
        rows = (self.top + np.arange(self.height) + 0.5) * truth.shape[0] / self.scaled[0]
        cols = (self.left + np.arange(self.width) + 0.5) * truth.shape[1] / self.scaled[1]
        return truth[rows.astype(int)[:, None], cols.astype(int)[None]]


def scaled_size(image: Image.Image, shorter: int) -> Size:
    """Height and width with the shorter side at `shorter` pixels and the aspect kept."""
    scale = shorter / min(image.size)
    return max(shorter, round(image.height * scale)), max(shorter, round(image.width * scale))


def random_box(scaled: Size, crop: Size, generator: np.random.Generator) -> Box:
    """A crop at a random place; smaller where the image is smaller."""
    height, width = min(crop[0], scaled[0]), min(crop[1], scaled[1])
    top = int(generator.integers(scaled[0] - height + 1))
    left = int(generator.integers(scaled[1] - width + 1))
    return Box(scaled, top, left, height, width)


def cut(
    sample: DenseSample,
    box: Box,
    crop: Size,
    void: float,
    *,
    flip: bool = False,
    colour: Callable[[Image.Image], Image.Image] | None = None,
    truth: Shaped[np.ndarray, "box_height box_width"] | None = None,
) -> View:
    """The view that a box describes, with other colours perhaps, filled up to `crop` at right and bottom.

    `truth` is that of the box, if it is not to be read at the centres of the pixels.
    """
    part = sample.image.resize(
        (box.width, box.height), Image.Resampling.BICUBIC, box=box.image_box(sample.image)
    )
    part = part if colour is None else colour(part)
    if part.size != (crop[1], crop[0]):
        whole = Image.new("RGB", (crop[1], crop[0]), MEAN_COLOUR)
        whole.paste(part)
        part = whole
    filled = np.full(crop, void, dtype=sample.truth.dtype)
    filled[: box.height, : box.width] = box.truth(sample.truth) if truth is None else truth
    pixels, values = to_tensor(part).contiguous(), torch.from_numpy(filled)
    return View(pixels.flip(-1), values.flip(-1)) if flip else View(pixels, values)


def whole(image: Image.Image, shorter: int) -> UInt8[Tensor, "3 height width"]:
    """The whole image with its shorter side at `shorter` pixels."""
    height, width = scaled_size(image, shorter)
    return to_tensor(image.resize((width, height), Image.Resampling.BICUBIC)).contiguous()


def readable(
    dataset: DenseDataset, workers: int, rows: Sequence[int] | None = None
) -> Iterator[tuple[int, DenseSample | ImageError]]:
    """Rows and samples in order, decoded in threads; the error in place of a sample that cannot be read."""

    def read(row: int) -> DenseSample | ImageError:
        try:
            return dataset[row]
        except ImageError as error:
            return error

    rows = range(len(dataset)) if rows is None else rows
    return zip(rows, in_order(read, rows, workers or all_cores()), strict=True)


Draw = Callable[[DenseSample, np.random.Generator], View]


def draw_views(
    dataset: DenseDataset, rows: Sequence[int], count: int, draw: Draw, seed: int, workers: int = 0
) -> Iterator[tuple[int, View]]:
    """`count` views with the rows of their images: shuffled passes over `rows`, one view an image and pass.

    View `i` is a function of the rows, the seed and `i` alone. Images that cannot be read are passed over;
    where none can be read that is a `DataError`.
    """
    order = np.random.default_rng((seed, 0))
    passes = -(-count // max(1, len(rows)))
    chosen = np.concatenate([order.permutation(np.asarray(rows)) for _ in range(passes)])[:count]

    def make(i: int) -> View | ImageError:
        try:
            return draw(dataset[int(chosen[i])], np.random.default_rng((seed, 1, i)))
        except ImageError as error:
            return error

    found, last = 0, ""
    for i, view in enumerate(in_order(make, range(count), workers or all_cores())):
        if isinstance(view, ImageError):
            last = str(view)
        else:
            found += 1
            yield int(chosen[i]), view
    if not found:
        raise DataError(f"{dataset.description}: no image can be read ({last}); repair or remove the files")
