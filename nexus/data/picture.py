"""One image before anything is done to it: what sources hand to the crop engine.

A `Picture` knows its upright size from its header, and its pixels when they are asked for. Pixels are
(height, width, chans), C-contiguous: uint8, or float32 in 0..1 where the source is deeper than 8 bits.

What the channels are is chosen by `channels`:

* `rgb`, the default: 8-bit RGB, whatever is stored, by the rules of `nexus.data.images`;
* `native`: the stored channels. Grey is 1, grey with alpha 2, RGBA 4, palettes are RGB or RGBA; CMYK, LAB
  and YCbCr become RGB. 8-bit and 1-bit stay uint8. Deeper values become float32 in 0..1. Where `value_range`
  (low, high) is given: by that, clipped. Else 16-bit unsigned is divided by 65535; floats within 0..1 are
  kept; other numbers are divided by 255 or 65535, whichever holds them, or else stretched from their own
  minimum..maximum. NaN and infinity become 0.
"""

from abc import ABC, abstractmethod
from typing import Literal

import numpy as np
from jaxtyping import Float32, Shaped, UInt8
from PIL import Image

from nexus.data.images import (
    DEFAULT_LIMITS,
    ImageLimits,
    check_size,
    decode_image,
    decode_with,
    upright_size,
)
from nexus.errors import ImageError

Channels = Literal["rgb", "native"]
Pixels = UInt8[np.ndarray, "height width chans"] | Float32[np.ndarray, "height width chans"]
ValueRange = tuple[float, float]


class Picture(ABC):
    """One upright image of a source; `name` is its name inside the source. Errors are `ImageError`."""

    name: str

    @property
    @abstractmethod
    def size(self) -> tuple[int, int]:
        """`(width, height)` in pixels, upright (after the EXIF orientation), from the header alone."""

    @abstractmethod
    def pixels(self, shrink: int = 1) -> Pixels:
        """The pixels, (height, width, chans), upright and C-contiguous: uint8, or float32 in 0..1.

        `shrink` 1, 2, 4 or 8 is a hint that only scaled JPEG decoding honours: sides come out divided by it,
        rounded up. So callers look at the shape that they get.
        """


class EncodedPicture(Picture):
    """A picture in the bytes of an image file."""

    def __init__(
        self,
        data: bytes,
        name: str,
        limits: ImageLimits = DEFAULT_LIMITS,
        channels: Channels = "rgb",
        value_range: ValueRange | None = None,
    ) -> None:
        self.data = data
        self.name = name
        self.limits = limits
        self.channels = channels
        self.value_range = value_range

    @property
    def size(self) -> tuple[int, int]:
        """From the header; the errors of `nexus.data.images.image_header`."""
        return upright_size(self.data, self.name, self.limits)

    def pixels(self, shrink: int = 1) -> Pixels:
        """Decoded; the errors of `nexus.data.images.decode_image`."""
        if self.channels == "rgb":
            return np.array(decode_image(self.data, self.name, self.limits))
        image = decode_with(self.data, self.name, self.limits, _plain)
        return _native(np.array(image), self.name, self.value_range)


class ArrayPicture(Picture):
    """A picture that its source holds as an array: HDF5, zarr, DICOM, a frame of a video.

    `array` is (height, width) or (height, width, chans), upright, of any number type.
    """

    def __init__(
        self,
        array: Shaped[np.ndarray, "..."],
        name: str,
        limits: ImageLimits = DEFAULT_LIMITS,
        channels: Channels = "rgb",
        value_range: ValueRange | None = None,
    ) -> None:
        if array.ndim not in (2, 3) or 0 in array.shape:
            raise ImageError(name, f"an array of shape {array.shape}, not (height, width[, channels])")
        if array.dtype.kind not in "buif":
            raise ImageError(name, f"an array of {array.dtype}, not of real numbers")
        check_size(array.shape[1], array.shape[0], name, limits)
        self.array = array
        self.name = name
        self.channels = channels
        self.value_range = value_range

    @property
    def size(self) -> tuple[int, int]:
        """From the shape."""
        return self.array.shape[1], self.array.shape[0]

    def pixels(self, shrink: int = 1) -> Pixels:
        """The values, as bytes or 0..1; `shrink` is not honoured. `rgb` takes 1 (grey) or 3 channels."""
        native = _native(self.array, self.name, self.value_range)
        return native if self.channels == "native" else _rgb(native, self.name)


def _plain(image: Image.Image, name: str) -> Image.Image:
    """The image with its channels as values: palettes resolved, inks and LAB as RGB."""
    if image.mode in ("P", "PA"):
        return image.convert("RGBA" if image.mode == "PA" or "transparency" in image.info else "RGB")
    if image.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        return image.convert("RGB")
    straight = {"1": "L", "La": "LA", "RGBa": "RGBA", "RGBX": "RGB"}
    return image.convert(straight[image.mode]) if image.mode in straight else image


def _native(values: Shaped[np.ndarray, "..."], name: str, value_range: ValueRange | None) -> Pixels:
    """Any numbers as uint8 or float32 in 0..1, by the rules at the head of this file."""
    if values.ndim == 2:
        values = values[:, :, None]
    if values.dtype == np.bool_:
        return np.ascontiguousarray(values.astype(np.uint8) * 255)
    if values.dtype == np.uint8 and value_range is None:
        return np.ascontiguousarray(values)
    finite = np.isfinite(values)
    if not finite.any():
        raise ImageError(name, "no finite pixel value")
    low, high = value_range or _own_range(values[finite], values.dtype)
    scaled = (values.astype(np.float32) - np.float32(low)) / np.float32((high - low) or 1.0)
    return np.ascontiguousarray(np.where(finite, scaled, 0).clip(0, 1), dtype=np.float32)


def _own_range(values: Shaped[np.ndarray, " finite"], kind: np.dtype) -> ValueRange:
    """The range that the values themselves suggest."""
    if kind == np.uint16:
        return 0.0, 65535.0
    low, high = float(values.min()), float(values.max())
    ceilings = (1.0, 255.0, 65535.0) if kind.kind == "f" else (255.0, 65535.0)
    return next(((0.0, top) for top in ceilings if low >= 0 and high <= top), (low, high))


def _rgb(native: Pixels, name: str) -> UInt8[np.ndarray, "height width 3"]:
    """Native pixels as 8-bit RGB."""
    chans = native.shape[2]
    if chans not in (1, 3):
        raise ImageError(name, f"{chans} channels, which are not grey or RGB")
    if native.dtype != np.uint8:
        native = np.rint(native * 255).astype(np.uint8)
    return np.repeat(native, 3, axis=2) if chans == 1 else native
