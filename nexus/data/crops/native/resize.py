"""Pillow's antialiased bicubic resize of bytes, of any number of channels, straight from boxes of a picture.

To the byte: Pillow resizes along the rows first, then along the columns, with weights in whole numbers of
`2 ** -FRACTION`, and rounds to bytes after each pass; so does this. A level off after the first pass
would be two in the end where a crop is enlarged, since there the sizes of the weights add up to 1.25. (Newer
versions of Pillow begin with the columns of boxes that are taller than wide and than the crop.) A pass
is fast where all values that lie side by side share their weights. So the whole picture is turned once for
all crops, its columns become rows; and what the first pass makes is turned back before the second::

    picture (height, width * chans) -> turned (width * chans, height)
    a box of turned -> narrow (chans * side, rows) -> back (rows, chans * side) -> crop (chans, side, side)

Vectors are whole, so they read beyond the values that are asked for; `room` leaves space for that.
"""

import numpy as np
from numba import types

from nexus.data.crops.native.compiling import exact_part, kernel, part
from nexus.data.crops.native.vectors import BLOCK, FRACTION, LANES, LOW, fixed_sum, turn_block

HALF_LOW = 1 << (LOW - 1)

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


@exact_part
def fixed(weight: float) -> np.int32:
    """The nearest whole number of `2 ** -FRACTION`."""
    scaled = weight * (1 << FRACTION)
    return np.int32(scaled - 0.5 if scaled < 0.0 else scaled + 0.5)


@exact_part
def pair(one: int, other: int) -> int:
    """Two numbers of 16 bits side by side."""
    return (one & 0xFFFF) | (other << 16)


@exact_part
def axis(start: float, length: float, pixels: int, side: int, begins: np.ndarray) -> np.ndarray:
    """The weights of one axis for the stretch of `length` from `start`; `begins` says where each begins.

    Keys' bicubic kernel (1981) with Pillow's parameter -0.5, as wide as an output pixel where that is larger.
    Only the first `pixels` are looked at. Computed in the order of Pillow, so that the weights are the same.
    Returns (2 * pairs, side) as `fixed_sum` takes them.
    """
    scale = length / side
    wide = max(scale, 1.0)
    inverse = 1.0 / wide
    taps = min(int(np.ceil(4.0 * wide)), pixels)
    for out in range(side):
        first = int(start + (out + 0.5) * scale - 2.0 * wide + 0.5)
        begins[out] = max(0, min(first, pixels - taps))
    pairs = (taps + 1) // 2
    weights = np.zeros((2 * pairs, side), np.float64)
    sums = np.zeros(side, np.float64)
    for k in range(taps):
        for out in range(side):
            d = abs((begins[out] + k - (start + (out + 0.5) * scale) + 0.5) * inverse)
            near = (1.5 * d - 2.5) * d * d + 1.0
            far = (((d - 5.0) * d + 8.0) * d - 4.0) * -0.5
            weights[k, out] = near if d < 1.0 else (far if d < 2.0 else 0.0)
            sums[out] += weights[k, out]
    parts = np.empty((2 * pairs, side), np.int32)
    for k in range(0, 2 * pairs, 2):
        for out in range(side):
            one = fixed(weights[k, out] / sums[out])
            other = fixed(weights[k + 1, out] / sums[out])
            upper, upper_other = (one + HALF_LOW) >> LOW, (other + HALF_LOW) >> LOW
            parts[k, out] = pair(upper, upper_other)
            parts[k + 1, out] = pair(one - (upper << LOW), other - (upper_other << LOW))
    return parts


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
    weights = axis(left - low, width, high - low, side, begins)
    narrow = np.empty(room(chans * side, rows), np.uint8)
    step = turned.strides[0]
    for out in range(side):
        place = side - 1 - out if flip else out
        for chan in range(chans):
            source = turned.ctypes.data + ((low + begins[out]) * chans + chan) * step + first
            target = narrow.ctypes.data + (chan * side + place) * narrow.strides[0]
            weight = weights.ctypes.data + out * 4
            for j in range(0, rows, LANES):
                fixed_sum(source + j, step * chans, weight, side * 4, len(weights) // 2, target + j)
    back = np.empty(room(rows + 1, chans * side), np.uint8)
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
    weights = axis(top - first, height, last - first, high, begins)
    line = np.empty(chans * wide + LANES, np.uint8)
    for out in range(high):
        source = back.ctypes.data + begins[out] * back.strides[0]
        weight = weights.ctypes.data + out * 4
        for j in range(0, chans * wide, LANES):
            target = line.ctypes.data + j
            fixed_sum(source + j, back.strides[0], weight, high * 4, len(weights) // 2, target)
        place = high - 1 - out if vertical_flip else out
        for chan in range(chans):
            for x in range(wide):
                crop[chan, place, x] = line[chan * wide + x]
