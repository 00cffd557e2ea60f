"""All random decisions of a crop, drawn before a pixel is touched.

A fixed number of uniform numbers belongs to each crop, whatever it decides. So the decisions of many crops
are drawn at once, any engine can be compared at equal decisions, and a contact sheet can say what was done.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from nexus.data.crops.config import CropConfig, Kind

Operation = Literal["brightness", "contrast", "saturation", "hue"]

OPERATIONS: tuple[Operation, ...] = ("brightness", "contrast", "saturation", "hue")
"""The parts of colour jitter; tables refer to them by position."""

RED, GREEN, BLUE = 0.299, 0.587, 0.114
"""Weights of the brightness (ITU-R BT.601), as in Pillow's and OpenCV's grey."""

TRIES = 10
"""Boxes drawn before the central fallback, as in torchvision's RandomResizedCrop."""

UNIFORMS = 4 * TRIES + 16
"""Uniform numbers that belong to one crop; a multiple of 4, which is what a step of Philox yields."""


class Box(NamedTuple):
    """A rectangle of the source image, in whole pixels."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class CropParameters:
    """Every random decision of one crop; `None` and `False` mean that a stage is left out."""

    kind: Kind
    box: Box
    flip: bool
    vertical_flip: bool
    transpose: bool
    """Rows and columns change places, after the flips."""
    jitter: tuple[tuple[Operation, float], ...] | None
    """Operations in the order in which they are applied, each with its factor (hue: turns)."""
    grayscale: bool
    blur: float | None
    """Standard deviation of the blur, in pixels."""
    solarize: bool


@dataclass(frozen=True)
class CropTable:
    """The decisions of many crops, a row each. A stage that is left out is False, or a blur of 0."""

    kinds: tuple[Kind, ...]
    boxes: Int[np.ndarray, "crops 4"]
    """Top, left, height, width in whole pixels of the source image."""
    flip: Bool[np.ndarray, " crops"]
    vertical_flip: Bool[np.ndarray, " crops"]
    transpose: Bool[np.ndarray, " crops"]
    order: Int[np.ndarray, "crops operations"]
    """Positions in `OPERATIONS`, in the order in which they are applied; -1 where there is none."""
    factors: Float[np.ndarray, "crops operations"]
    """What belongs to `order`: the factor, or the turns of the hue."""
    grayscale: Bool[np.ndarray, " crops"]
    blur: Float[np.ndarray, " crops"]
    solarize: Bool[np.ndarray, " crops"]

    def __len__(self) -> int:
        return len(self.kinds)

    def select(self, rows: Int[np.ndarray, " rows"]) -> "CropTable":
        """Some rows, in the order of `rows`."""
        columns = {name: value[rows] for name, value in vars(self).items() if name != "kinds"}
        return CropTable(kinds=tuple(self.kinds[row] for row in rows.tolist()), **columns)

    def by_size(self, images: int) -> tuple["CropTable", "CropTable"]:
        """The global and the local crops of `images` images, each crop-major: row `c * images + b`."""
        places = np.arange(len(self)).reshape(images, -1).T
        return self.select(places[:2].reshape(-1)), self.select(places[2:].reshape(-1))

    def rows(self) -> tuple[CropParameters, ...]:
        """The decisions, one record a crop."""
        columns = (self.flip, self.vertical_flip, self.transpose, self.grayscale, self.blur, self.solarize)
        flags = zip(*(column.tolist() for column in columns), strict=True)
        jitters = zip(self.order.tolist(), self.factors.tolist(), strict=True)
        return tuple(
            CropParameters(
                kind, Box(*box), flip, vertical, transpose, _jitter(*jitter), grey, blur or None, sol
            )
            for kind, box, (flip, vertical, transpose, grey, blur, sol), jitter in zip(
                self.kinds, self.boxes.tolist(), flags, jitters, strict=True
            )
        )


def joined(tables: Sequence[CropTable]) -> CropTable:
    """The rows of several tables, one table after the other."""
    names = [name for name in vars(tables[0]) if name != "kinds"]
    columns = {name: np.concatenate([getattr(table, name) for table in tables]) for name in names}
    return CropTable(kinds=tuple(kind for table in tables for kind in table.kinds), **columns)


def _jitter(order: list[int], factors: list[float]) -> tuple[tuple[Operation, float], ...] | None:
    drawn = tuple((OPERATIONS[op], factor) for op, factor in zip(order, factors, strict=True) if op >= 0)
    return drawn or None


class CropDrawer:
    """Uniform numbers to decisions, for the crops of one configuration: global 1, global 2, local 1, ..."""

    def __init__(self, config: CropConfig) -> None:
        self.config = config
        locals_: list[Kind] = ["local"] * config.local_number
        self.kinds: tuple[Kind, ...] = ("global1", "global2", *locals_)
        views = [config.view(kind) for kind in self.kinds]
        self.scale = np.array([view.scale for view in views])
        self.blur = np.array([view.blur for view in views])
        self.solarize = np.array([view.solarize for view in views])
        strengths = [config.brightness, config.contrast, config.saturation, config.hue]
        self.active = np.flatnonzero(np.array(strengths) > 0)
        """The operations of colour jitter whose strength is not 0."""
        around_one = [(max(0.0, 1 - strength), 1 + strength) for strength in strengths[:3]]
        ranges = np.array([*around_one, (-config.hue, config.hue)])[self.active]
        self.low, self.span = ranges[:, 0], ranges[:, 1] - ranges[:, 0]
        self.yes_or_no = np.array(
            [config.flip, config.vertical_flip, config.transpose, config.grayscale, config.jitter]
        )

    def __call__(self, size: tuple[int, int], uniforms: Float[np.ndarray, "crops uniforms"]) -> CropTable:
        """The decisions for images of `size` = (width, height), as in PIL.

        `uniforms` has `UNIFORMS` columns of numbers in [0, 1), and rows for the crops of one image after
        the other.
        """
        config = self.config
        images = len(uniforms) // len(self.kinds)
        scale, blur, solarize = self.scale, self.blur, self.solarize
        if images > 1:
            scale, blur, solarize = (
                np.tile(scale, (images, 1)),
                np.tile(blur, images),
                np.tile(solarize, images),
            )
        boxes = draw_boxes(size, scale, config.ratio, uniforms[:, : 4 * TRIES].reshape(-1, TRIES, 4))
        u = uniforms[:, 4 * TRIES :]
        flip, vertical_flip, transpose, grayscale, jitter = (u[:, :5] < self.yes_or_no).T
        order, factors = self._jitter(jitter, u[:, 5:9], u[:, 9:13])
        low, high = config.blur_sigma
        return CropTable(
            kinds=self.kinds * images,
            boxes=boxes,
            flip=flip,
            vertical_flip=vertical_flip,
            transpose=transpose,
            order=order,
            factors=factors,
            grayscale=grayscale,
            blur=np.where(u[:, 13] < blur, low + (high - low) * u[:, 14], 0.0),
            solarize=u[:, 15] < solarize,
        )

    def _jitter(
        self,
        chosen: Bool[np.ndarray, " crops"],
        amounts: Float[np.ndarray, "crops 4"],
        ranks: Float[np.ndarray, "crops 4"],
    ) -> tuple[Int[np.ndarray, "crops operations"], Float[np.ndarray, "crops operations"]]:
        """The operations in random order, and their factors in that order."""
        count = len(self.active)
        places = ranks[:, :count].argsort(axis=1)
        factors = self.low + self.span * amounts[:, :count]
        order = np.where(chosen[:, None], self.active[places], -1)
        return order, factors[np.arange(len(places))[:, None], places]


def draw_boxes(
    size: tuple[int, int],
    scale: Float[np.ndarray, "crops 2"],
    ratio: tuple[float, float],
    uniforms: Float[np.ndarray, "crops tries 4"],
) -> Int[np.ndarray, "crops 4"]:
    """Boxes with their share of the area uniform in `scale` and their log aspect uniform in `ratio`.

    A box larger than the image is drawn anew, as often as there are tries; then the largest central box
    with an allowed aspect is taken. Distribution: torchvision's RandomResizedCrop.
    """
    width, height = size
    low, high = math.log(ratio[0]), math.log(ratio[1])
    area = width * height * (scale[:, :1] + (scale[:, 1:] - scale[:, :1]) * uniforms[:, :, 0])
    aspect = np.exp(low + (high - low) * uniforms[:, :, 1])
    w, h = np.rint(np.sqrt(area * aspect)), np.rint(np.sqrt(area / aspect))
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    rows, first = np.arange(len(fits)), fits.argmax(axis=1)
    w, h, drawn = w[rows, first], h[rows, first], uniforms[rows, first]
    boxes = np.empty((len(fits), 4), np.int64)
    boxes[:, 0] = drawn[:, 2] * (height - h + 1)  # whole numbers from here on: the rest is cut off
    boxes[:, 1] = drawn[:, 3] * (width - w + 1)
    boxes[:, 2], boxes[:, 3] = h, w
    fitting = fits[rows, first]
    if not fitting.all():
        boxes[~fitting] = _central(width, height, ratio)
    return boxes


def _central(width: int, height: int, ratio: tuple[float, float]) -> Box:
    w = max(1, min(width, round(height * ratio[1])))
    h = max(1, min(height, round(width / ratio[0])))
    return Box((height - h) // 2, (width - w) // 2, h, w)
