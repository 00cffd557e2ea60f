"""Colour PNGs of 16 bits a channel, whose low bytes Pillow drops; by OpenCV, which keeps them."""

import cv2
import numpy as np
from jaxtyping import UInt16

_BEGIN = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
_DEPTH, _KIND = 24, 25
"""Where the first chunk says the bits of a channel, and which channels there are."""

_CONVERSIONS = {2: cv2.COLOR_BGR2RGB, 6: cv2.COLOR_BGRA2RGBA}


def deep_png(data: bytes) -> UInt16[np.ndarray, "height width chans"] | None:
    """The stored numbers of a 16-bit RGB or RGBA PNG; None for every other file.

    Call it for files that Pillow has read whole: a damaged one may come out half read.
    """
    if not data.startswith(_BEGIN) or len(data) <= _KIND or data[_DEPTH] != 16:
        return None
    conversion = _CONVERSIONS.get(data[_KIND])
    if conversion is None:
        return None
    values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    chans = 3 if conversion == cv2.COLOR_BGR2RGB else 4
    if values is None or values.dtype != np.uint16 or values.shape[2:] != (chans,):
        return None
    converted: np.ndarray = cv2.cvtColor(values, conversion)
    return converted
