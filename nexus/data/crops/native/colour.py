"""Colour, blur and solarization of 8-bit RGB crops, step by step as torchvision does it on PIL images.

The arithmetic is Pillow's own, in float32, which holds its intermediate values exactly: blends are cut off,
greys are rounded, hue goes through HSV of 8 bits. Crops (3, high, wide) are worked on in pieces that stay in
the processor's nearest cache. A contrast needs the mean of the whole crop, so a round over all pieces ends
before each one.
"""

import numpy as np
from numba import types

from nexus.data.crops.native.compiling import kernel, part
from nexus.data.crops.native.vectors import LANES, weighted_sum_of_floats, weighted_sum_to_floats

_CROP = types.Array(types.uint8, 3, "C")
_PIECE = 1024
"""Pixels that are worked on at a time."""

BRIGHTNESS, CONTRAST, SATURATION, HUE, GREY = range(5)
"""Steps; the first four as in `nexus.data.crops.parameters.OPERATIONS`."""

_RED, _GREEN, _BLUE, _UNIT = (np.float32(value) for value in (19595, 38470, 7471, 2.0**-16))
"""Pillow's integer weights of the brightness, in units of 1/65536."""
_ZERO, _HALF, _ONE, _TWO, _FOUR, _SIX, _TOP = (np.float32(value) for value in (0, 0.5, 1, 2, 4, 6, 255))
_BYTES = np.float32(256.0)
_NUDGE = np.float32(1e-4)
"""Pillow computes the hue in double precision; this keeps what is whole there from falling below it here."""


@part
def brightness(red: np.float32, green: np.float32, blue: np.float32) -> np.float32:
    """The grey of a pixel, whole."""
    return np.floor((red * _RED + green * _GREEN + blue * _BLUE) * _UNIT + _HALF)


@part
def blended(other: np.float32, value: np.float32, factor: np.float32) -> np.float32:
    """`factor` of the value and the rest of another one, cut off to whole numbers of a byte."""
    return np.floor(min(max(other + factor * (value - other), _ZERO), _TOP))


@part
def turned_hue(
    red: np.float32, green: np.float32, blue: np.float32, steps: np.float32
) -> tuple[np.float32, np.float32, np.float32]:
    """The pixel with its hue `steps` of 1/256 of a turn further, by Pillow's HSV of 8 bits."""
    high, low = max(red, max(green, blue)), min(red, min(green, blue))
    spread = high - low
    inverse = _ONE / max(spread, _ONE)
    of_blue = _FOUR + (red - green) * inverse
    of_green = _TWO + (blue - red) * inverse
    sixths = (green - blue) * inverse
    sixths = sixths if red == high else (of_green if green == high else of_blue)
    turn = sixths * (_ONE / _SIX)
    turn = turn + _ONE if turn < _ZERO else turn
    hue = np.floor(turn * _TOP + _NUDGE) + steps
    hue = hue - _BYTES if hue >= _BYTES else hue
    saturation = np.floor(spread * _TOP / max(high, _ONE) + _NUDGE)
    share = saturation * (_ONE / _TOP)
    place = hue * (_SIX / _TOP)
    return (
        _of_hue(high, share, place + np.float32(5)),
        _of_hue(high, share, place + np.float32(3)),
        _of_hue(high, share, place + _ONE),
    )


@part
def _of_hue(high: np.float32, share: np.float32, k: np.float32) -> np.float32:
    """One of red, green and blue, `k` sixths of a turn away from where it is least."""
    k = k - _SIX if k >= _SIX else k
    missing = max(min(min(k, _FOUR - k), _ONE), _ZERO)
    return np.floor(high * (_ONE - share * missing) + _HALF)


@part
def mean_brightness(planes: np.ndarray) -> np.float32:
    """The mean grey of a crop (3, pixels), rounded."""
    total, pixels = 0.0, planes.shape[1]
    for begin in range(0, pixels, _PIECE):
        red, green, blue = (
            planes[0, begin : begin + _PIECE],
            planes[1, begin : begin + _PIECE],
            planes[2, begin : begin + _PIECE],
        )
        some = _ZERO
        for i in range(len(red)):
            some += brightness(np.float32(red[i]), np.float32(green[i]), np.float32(blue[i]))
        total += float(some)
    return np.float32(np.floor(total / pixels + 0.5))


@part
def adjust(
    red: np.ndarray, green: np.ndarray, blue: np.ndarray, step: int, factor: np.float32, mean: np.float32
) -> None:
    """One step of a piece, in place. For the hue `factor` counts steps of it."""
    if step in (BRIGHTNESS, CONTRAST):
        other = mean if step == CONTRAST else _ZERO
        for i in range(len(red)):
            red[i] = blended(other, red[i], factor)
            green[i] = blended(other, green[i], factor)
            blue[i] = blended(other, blue[i], factor)
    elif step == SATURATION:
        for i in range(len(red)):
            grey = brightness(red[i], green[i], blue[i])
            red[i] = blended(grey, red[i], factor)
            green[i] = blended(grey, green[i], factor)
            blue[i] = blended(grey, blue[i], factor)
    elif step == HUE:
        for i in range(len(red)):
            red[i], green[i], blue[i] = turned_hue(red[i], green[i], blue[i], factor)
    elif step == GREY:
        for i in range(len(red)):
            grey = brightness(red[i], green[i], blue[i])
            red[i], green[i], blue[i] = grey, grey, grey


@part
def load(plane: np.ndarray, values: np.ndarray) -> None:
    """Bytes as float32."""
    for i in range(len(plane)):
        values[i] = plane[i]


@part
def store(values: np.ndarray, plane: np.ndarray) -> None:
    """Whole numbers as bytes."""
    for i in range(len(plane)):
        plane[i] = np.uint8(values[i])


@part
def jitter(planes: np.ndarray, steps: np.ndarray, factors: np.ndarray) -> None:
    """All steps of a crop (3, pixels), in rounds that end before a contrast."""
    red, green, blue = (
        np.empty(_PIECE, np.float32),
        np.empty(_PIECE, np.float32),
        np.empty(_PIECE, np.float32),
    )
    first = 0
    while first < len(steps):
        last = first + 1
        while last < len(steps) and steps[last] != CONTRAST:
            last += 1
        mean = mean_brightness(planes) if steps[first] == CONTRAST else _ZERO
        for begin in range(0, planes.shape[1], _PIECE):
            ours = planes[0, begin : begin + _PIECE]
            size = len(ours)
            load(ours, red)
            load(planes[1, begin : begin + size], green)
            load(planes[2, begin : begin + size], blue)
            for k in range(first, last):
                adjust(red[:size], green[:size], blue[:size], steps[k], factors[k], mean)
            store(red, ours)
            store(green, planes[1, begin : begin + size])
            store(blue, planes[2, begin : begin + size])
        first = last


@part
def mirrored(place: int, length: int) -> int:
    """Where a place outside lies inside, without the edge twice."""
    place = abs(place)
    return place if place < length else 2 * (length - 1) - place


@part
def blur(plane: np.ndarray, sigma: float, radius: int) -> None:
    """Gaussian blur of a plane in place, first along the rows; nothing is rounded before the end."""
    high, wide = plane.shape
    taps = np.empty(2 * radius + 1, np.float32)
    for j in range(len(taps)):
        taps[j] = np.exp(-0.5 * ((j - radius) / sigma) ** 2)
    taps /= taps.sum()
    padded, line = np.empty(wide + 2 * radius + LANES, np.uint8), np.empty(wide + LANES, np.uint8)
    rows = np.empty((high + 2 * radius, (wide + LANES - 1) // LANES * LANES), np.float32)
    for y in range(-radius, high + radius):
        source, row = plane[mirrored(y, high)], rows[radius + y]
        for j in range(radius):
            padded[j] = source[mirrored(j - radius, wide)]
            padded[radius + wide + j] = source[mirrored(wide + j, wide)]
        middle = padded[radius : radius + wide]
        for x in range(wide):
            middle[x] = source[x]
        for x in range(0, wide, LANES):
            weighted_sum_to_floats(
                padded.ctypes.data + x, 1, taps.ctypes.data, 4, len(taps), row.ctypes.data + 4 * x
            )
    for y in range(high):
        source, target = rows[y], plane[y]
        for x in range(0, wide, LANES):
            weighted_sum_of_floats(
                source.ctypes.data + 4 * x,
                rows.strides[0],
                taps.ctypes.data,
                4,
                len(taps),
                line.ctypes.data + x,
            )
        for x in range(wide):
            target[x] = line[x]


@kernel(
    types.void(
        _CROP,
        types.Array(types.int64, 1, "C"),
        types.Array(types.float64, 1, "C"),
        types.boolean,
        types.float64,
        types.int64,
        types.int64,
    )
)
def recolour(
    crop: np.ndarray,
    order: np.ndarray,
    factors: np.ndarray,
    grey: bool,
    sigma: float,
    radius: int,
    threshold: int,
) -> None:
    """What a row of a `CropTable` says, in place.

    `sigma` of 0 is no blur, `radius` half the width of its kernel; values from `threshold` on are inverted.
    """
    steps, amounts = np.empty(len(order) + 1, np.int64), np.empty(len(order) + 1, np.float32)
    count = 0
    for k in range(len(order)):
        if order[k] >= 0:
            steps[count] = order[k]
            amounts[count] = int(factors[k] * 255) & 255 if order[k] == HUE else factors[k]
            count += 1
    if grey:
        steps[count], amounts[count] = GREY, _ZERO
        count += 1
    jitter(crop.reshape(3, crop.shape[1] * crop.shape[2]), steps[:count], amounts[:count])
    if sigma > 0:
        reach = min(radius, int(np.ceil(3.5 * sigma)))  # what lies beyond changes no byte
        for chan in range(3):
            blur(crop[chan], sigma, reach)
    if threshold < 256:
        flat = crop.reshape(crop.size)
        limit = np.uint8(threshold)
        for i in range(len(flat)):
            flat[i] = flat[i] if flat[i] < limit else ~flat[i]
