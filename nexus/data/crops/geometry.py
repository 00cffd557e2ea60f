"""Boxes of a decoded picture to crops: antialiased bicubic, straight from the pixels, then the flips.

The resize is torch's uint8 kernel on channels-last memory: Pillow's bicubic to one grey level, in a fifth of
its time.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from jaxtyping import Float, Float32, Int, UInt8

from nexus.data.crops.parameters import CropTable
from nexus.data.picture import Pixels

Planes = UInt8[np.ndarray, "chans _ _"] | Float32[np.ndarray, "chans _ _"]
"""A crop as the network takes it: channels first."""

SHRINKS = (8, 4, 2)
"""Factors by which a JPEG can be decoded smaller, largest first."""

OVERHANG = 16
"""Rows or columns that may be resized and thrown away to put a box between pixels; see `_begin_earlier`."""


def choose_shrink(boxes: Int[np.ndarray, "crops 4"], sides: Int[np.ndarray, " crops"]) -> int:
    """The largest factor by which the picture may be decoded smaller without enlarging any crop by it."""
    spare = float((boxes[:, 2:].min(axis=1) / sides).min())
    return next((shrink for shrink in SHRINKS if shrink <= spare), 1)


def shrunk_by(pixels: Pixels, size: tuple[int, int], shrink: int) -> int:
    """`shrink` if the pixels of a picture of `size` = (width, height) came shrunk, else 1."""
    width, height = size
    return shrink if pixels.shape[:2] == (-(-height // shrink), -(-width // shrink)) else 1


def cut(pixels: Pixels, shrink: int, table: CropTable, crops: Sequence[Planes]) -> None:
    """Fill `crops`, one for each row of the table, with its box, flipped and transposed as drawn."""
    if shrink == 1:
        for crop, box in zip(crops, table.boxes.tolist(), strict=True):
            _whole(pixels, box, crop)
    else:
        _between(pixels, table.boxes / shrink, crops)
    turns = zip(table.flip.tolist(), table.vertical_flip.tolist(), table.transpose.tolist(), strict=True)
    for crop, turn in zip(crops, turns, strict=True):
        _turn(crop, *turn)


def _turn(crop: Planes, flip: bool, vertical_flip: bool, transpose: bool) -> None:
    if flip:
        rows = crop.reshape(-1, crop.shape[2])
        rows[:] = cv2.flip(rows, 1)
    if vertical_flip:
        crop[:] = crop[:, ::-1].copy()
    if transpose:
        crop[:] = crop.transpose(0, 2, 1).copy()


def _whole(pixels: Pixels, box: Sequence[int], crop: Planes) -> None:
    """A box of whole pixels."""
    top, left, height, width = box
    region = pixels[top : top + height, left : left + width]
    if (height, width) == crop.shape[1:]:
        crop[:] = region.transpose(2, 0, 1)
    else:
        crop[:] = _bicubic(region, crop.shape[1:])


def _between(pixels: Pixels, boxes: Float[np.ndarray, "crops 4"], crops: Sequence[Planes]) -> None:
    """Boxes that begin and end between the pixels."""
    sides = np.array([crop.shape[1:] for crop in crops])
    scales = boxes[:, 2:] / sides
    begins, overs = _begin_earlier(boxes[:, :2], scales)
    shapes = sides + overs
    ends = begins + np.ceil(shapes * scales).astype(np.int64)
    rows = zip(begins.tolist(), ends.tolist(), overs.tolist(), shapes.tolist(), scales.tolist(), strict=True)
    for crop, ((top, left), (bottom, right), (down, across), shape, scale) in zip(crops, rows, strict=True):
        crop[:] = _bicubic(pixels[top:bottom, left:right], shape, scale)[:, down:, across:]


def _begin_earlier(
    starts: Float[np.ndarray, "crops 2"], scales: Float[np.ndarray, "crops 2"]
) -> tuple[Int[np.ndarray, "crops 2"], Int[np.ndarray, "crops 2"]]:
    """Whole pixels to resize from, so that `starts` are hit, and the output pixels that come before them.

    A resize cannot begin between two pixels, but it can begin some output pixels earlier (each is `scales`
    pixels wide). Of up to `OVERHANG` the number is taken whose beginning is nearest to a whole pixel.
    """
    at = starts[..., None] - scales[..., None] * np.arange(OVERHANG + 1)
    whole = np.rint(at)
    miss = np.where(whole >= 0, np.abs(at - whole), np.inf)
    overs = miss.argmin(axis=-1)
    begins = np.take_along_axis(whole, overs[..., None], axis=-1)[..., 0]
    return begins.astype(np.int64), overs


def _bicubic(region: Pixels, shape: Sequence[int], scale: Sequence[float] | None = None) -> Planes:
    """Antialiased bicubic resize; float pixels stay within 0..1. `scale`: pixels in an output pixel."""
    chans = region.shape[2]
    if region.dtype == np.uint8 and chans > 4:  # torch's fast kernel takes at most four channels
        groups = [region[:, :, first : first + 4] for first in range(0, chans, 4)]
        return np.concatenate([_bicubic(group, shape, scale) for group in groups])
    factors = (1 / scale[0], 1 / scale[1]) if scale else (None, None)
    batch = torch.from_numpy(region[None].copy()).permute(0, 3, 1, 2)  # contiguous, and not read-only
    # What `interpolate` calls, without its checks, which take half as long as a small crop.
    resize = torch.ops.aten._upsample_bicubic2d_aa.default
    crop: Planes = resize(batch, shape, False, *factors)[0].numpy()
    return crop if crop.dtype == np.uint8 else crop.clip(0.0, 1.0)
