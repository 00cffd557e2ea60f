"""Pillow's antialiased bicubic resize of bytes, of any number of channels, straight from boxes of a picture.

Pillow resizes along the rows first, then along the columns, and rounds in between, so this does too. A pass
is fast where all values that lie side by side share their weights. So the whole picture is turned once for
all crops, its columns become rows; and what the first pass makes is turned back before the second::

    picture (height, width * chans) -> turned (width * chans, height)
    a box of turned -> narrow (chans * side, rows) -> back (rows, chans * side) -> crop (chans, side, side)

Vectors are whole, so they read beyond the values that are asked for; `room` leaves space for that.
"""

import numpy as np
from numba import types

from nexus.data.crops.native.compiling import kernel, part
from nexus.data.crops.native.vectors import BLOCK, LANES, turn_block, weighted_sum

_MATRIX = types.Array(types.uint8, 2, "C")
_READ_ONLY = types.Array(types.uint8, 2, "C", readonly=True)
_CROP = types.Array(types.uint8, 3, "C")


@kernel(types.UniTuple(types.int64, 2)(types.int64, types.int64))
def room(rows: int, columns: int) -> tuple[int, int]:
    """The shape of memory for so many rows and columns of bytes.

    A row more, since what begins in the last one may end behind it; and rows an odd number of `LANES` apart,
    since powers of two would compete for the same few places of the processor's cache.
    """
    return rows + 1, ((columns + LANES - 1) // LANES | 1) * LANES


@kernel(types.void(_READ_ONLY, types.int64, types.int64, _MATRIX))
def turn(source: np.ndarray, rows: int, columns: int, target: np.ndarray) -> None:
    """Rows of `source` become columns of `target`."""
    if rows < BLOCK or columns < BLOCK:
        for i in range(rows):
            for j in range(columns):
                target[j, i] = source[i, j]
        return
    step, target_step = source.strides[0], target.strides[0]
    for band in range(0, rows, LANES):
        for j in range(0, columns, BLOCK):
            left = min(j, columns - BLOCK)
            for i in range(band, min(band + LANES, rows), BLOCK):
                top = min(i, rows - BLOCK)
                begin = source.ctypes.data + top * step + left
                turn_block(begin, step, target.ctypes.data + left * target_step + top, target_step)


@part
def axis(start: float, length: float, low: int, high: int, side: int, begins: np.ndarray) -> np.ndarray:
    """The weights (taps, side) of one axis for the stretch of `length` from `start`, and where each begins.

    Keys' bicubic kernel (1981) with Pillow's parameter -0.5, as wide as an output pixel where that is larger.
    Only the pixels `low`..`high` are looked at.
    """
    scale = length / side
    wide = max(scale, 1.0)
    taps = min(int(np.ceil(4.0 * wide)), high - low)
    for out in range(side):
        first = int(np.floor(start + (out + 0.5) * scale - 2.0 * wide + 0.5))
        begins[out] = max(low, min(first, high - taps))
    weights = np.empty((taps, side), np.float32)
    sums = np.zeros(side, np.float32)
    for k in range(taps):
        for out in range(side):
            d = abs(begins[out] + k + 0.5 - start - (out + 0.5) * scale) / wide
            near = (1.5 * d - 2.5) * d * d + 1.0
            far = ((2.5 - 0.5 * d) * d - 4.0) * d + 2.0
            weights[k, out] = near if d < 1.0 else (far if d < 2.0 else 0.0)
            sums[out] += weights[k, out]
    for k in range(taps):
        for out in range(side):
            weights[k, out] /= sums[out]
    return weights


@part
def narrowed(
    turned: np.ndarray,
    left: float,
    width: float,
    low: int,
    high: int,
    first: int,
    rows: int,
    flip: bool,
    chans: int,
    side: int,
) -> np.ndarray:
    """`rows` rows from `first` on, resized along the rows: (rows, chans * side) and room behind it.

    The stretch of `width` from `left`, of which the pixels `low`..`high` are looked at.
    """
    begins = np.empty(side, np.int64)
    weights = axis(left, width, low, high, side, begins)
    narrow = np.empty(room(chans * side, rows), np.uint8)
    step = turned.strides[0]
    for out in range(side):
        place = side - 1 - out if flip else out
        for chan in range(chans):
            source = turned.ctypes.data + (begins[out] * chans + chan) * step + first
            target = narrow.ctypes.data + (chan * side + place) * narrow.strides[0]
            weight = weights.ctypes.data + out * 4
            for j in range(0, rows, LANES):
                weighted_sum(source + j, step * chans, weight, side * 4, len(weights), target + j)
    back = np.empty(room(rows, chans * side), np.uint8)
    turn(narrow, chans * side, rows, back)
    return back


@kernel(
    types.void(
        _MATRIX,
        types.int64,
        types.int64,
        types.UniTuple(types.float64, 4),
        types.boolean,
        types.boolean,
        _CROP,
    )
)
def cut(
    turned: np.ndarray,
    picture_height: int,
    picture_width: int,
    box: tuple[float, float, float, float],
    flip: bool,
    vertical_flip: bool,
    crop: np.ndarray,
) -> None:
    """Fill `crop` (chans, high, wide) with a box of the picture that was turned, flipped as asked.

    The box (top, left, height, width) counts pixels, and may begin and end between them.
    """
    top, left, height, width = box
    chans, high, wide = crop.shape
    first, last = max(int(np.floor(top)), 0), min(int(np.ceil(top + height)), picture_height)
    low, up = max(int(np.floor(left)), 0), min(int(np.ceil(left + width)), picture_width)
    back = narrowed(turned, left, width, low, up, first, last - first, flip, chans, wide)
    begins = np.empty(high, np.int64)
    weights = axis(top - first, height, 0, last - first, high, begins)
    line = np.empty(chans * wide + LANES, np.uint8)
    for out in range(high):
        source = back.ctypes.data + begins[out] * back.strides[0]
        weight = weights.ctypes.data + out * 4
        for j in range(0, chans * wide, LANES):
            target = line.ctypes.data + j
            weighted_sum(source + j, back.strides[0], weight, high * 4, len(weights), target)
        place = high - 1 - out if vertical_flip else out
        for chan in range(chans):
            for x in range(wide):
                crop[chan, place, x] = line[chan * wide + x]
