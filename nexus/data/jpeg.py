"""Fast decoding of ordinary JPEG files, also at a half, a quarter or an eighth of the size.

libjpeg-turbo through simplejpeg: the pixels of Pillow, which builds on the same library, in less time. It
never decides that a file is bad: whatever it will not read without a single warning goes to Pillow, which
reads it or says why not.
"""

import cv2
import numpy as np
import simplejpeg
from jaxtyping import UInt8

from nexus.data.header import Header

_NOT_UPRIGHT = 5
"""The first EXIF orientation that exchanges width and height."""


def fast_pixels(data: bytes, header: Header, shrink: int) -> UInt8[np.ndarray, "height width 3"] | None:
    """The upright RGB pixels of a sound grey or YCbCr JPEG of 8 bits; None for every other file.

    `shrink` is 1, 2, 4 or 8; sides are divided by it and rounded up.
    """
    if header.format not in ("JPEG", "MPO") or header.mode not in ("RGB", "L"):
        return None
    height, width = -(-header.height // shrink), -(-header.width // shrink)
    try:
        if shrink == 1:
            pixels = simplejpeg.decode_jpeg(data, colorspace="RGB", strict=True)
        else:
            pixels = simplejpeg.decode_jpeg(
                data, colorspace="RGB", min_height=height, min_width=width, min_factor=shrink, strict=True
            )
    except (ValueError, MemoryError, OverflowError):
        return None
    return turned(pixels, header.orientation) if pixels.shape == (height, width, 3) else None


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Stored pixels (height, width, chans) set upright by their EXIF orientation 1..8, C-contiguous."""
    if orientation >= _NOT_UPRIGHT:
        pixels = cv2.transpose(pixels)
    if orientation in (3, 4, 7, 8):
        pixels = cv2.flip(pixels, 0)
    if orientation in (2, 3, 6, 7):
        pixels = cv2.flip(pixels, 1)
    return pixels
