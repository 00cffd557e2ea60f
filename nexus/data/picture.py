"""One image before anything is done to it: what sources hand to the crop engine.

A `Picture` knows its upright size from its header, and its pixels when they are asked for. Pixels are
(height, width, chans), C-contiguous: uint8, or float32 in 0..1 where the source is deeper than 8 bits.

What the channels are is chosen by the `Look` of the data set, its `channels`:

* `rgb`, the default: 8-bit RGB, whatever is stored, by the rules of `nexus.data.images`;
* `native`: the stored channels. Grey is 1, grey with alpha 2, RGBA 4, palettes are RGB or RGBA; CMYK, LAB
  and YCbCr become RGB. 8-bit and 1-bit stay uint8. Deeper values become float32 in 0..1. Where `value_range`
  (low, high) is given: by that, clipped. Else 16-bit unsigned is divided by 65535; floats within 0..1 are
  kept; other numbers are divided by 255 or 65535, whichever holds them, or else stretched from their own
  minimum..maximum. NaN and infinity, which also stand for no data, become 0, or with `fill` the whole pixel
  becomes that.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float32, Shaped, UInt8
from PIL import Image

from nexus.data.header import Header
from nexus.data.images import (
    DEFAULT_LIMITS,
    ImageLimits,
    check_size,
    decode_image,
    decode_with,
    read_header,
)
from nexus.data.jpeg import fast_pixels, turned
from nexus.data.png import deep_png
from nexus.errors import ImageError

Channels = Literal["rgb", "native"]
Pixels = UInt8[np.ndarray, "height width chans"] | Float32[np.ndarray, "height width chans"]
ValueRange = tuple[float, float]


@dataclass(frozen=True)
class Look:
    """How the stored values of all images of a data set become pixels; see the head of this file."""

    channels: Channels = "rgb"
    value_range: ValueRange | None = None
    """The values that become 0 and 1 of `native` pixels; None leaves that to type and values."""
    fill: tuple[float, ...] | None = None
    """One value in 0..1 a channel, for pixels without data; images of another number are refused."""
    floats: bool = False
    """`native` pixels of 8 bits become float32 too, to share batches with deeper ones."""


RGB = Look()


class Picture(ABC):
    """One upright image of a source; `name` is its name inside the source. Errors are `ImageError`."""

    name: str
    look: Look

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

    @abstractmethod
    def values(self) -> Shaped[np.ndarray, "height width chans"]:
        """The stored numbers of all channels, upright, before they are scaled; NaN where there is no data."""

    def valid(self) -> Bool[np.ndarray, "height width"]:
        """False where a channel holds no data."""
        values = self.values()
        exact = values.dtype.kind in "bui"
        return np.ones(values.shape[:2], dtype=bool) if exact else np.isfinite(values).all(axis=2)


class EncodedPicture(Picture):
    """A picture in the bytes of an image file."""

    def __init__(
        self,
        data: bytes,
        name: str,
        limits: ImageLimits = DEFAULT_LIMITS,
        look: Look = RGB,
    ) -> None:
        self.data = data
        self.name = name
        self.limits = limits
        self.look = look

    @property
    def size(self) -> tuple[int, int]:
        """From the header; the errors of `nexus.data.images.image_header`."""
        return self.header.upright

    @cached_property
    def header(self) -> Header:
        """What the file says of itself."""
        return read_header(self.data, self.name, self.limits)

    def pixels(self, shrink: int = 1) -> Pixels:
        """Decoded; the errors of `nexus.data.images.decode_image`."""
        if self.look.channels == "rgb" or self._is_plain_rgb():
            pixels = fast_pixels(self.data, self.header, shrink)
            if pixels is not None:
                return pixels
        if self.look.channels == "rgb":
            return np.array(decode_image(self.data, self.name, self.limits))
        return _native(self.values(), self.name, self.look)

    def _is_plain_rgb(self) -> bool:
        """Whether the native channels are what the RGB ones would be."""
        look = self.look
        changed = look.value_range is not None or look.floats
        return self.header.mode == "RGB" and not changed and len(look.fill or "rgb") == 3

    def values(self) -> Shaped[np.ndarray, "height width chans"]:
        """Decoded as stored; the errors of `nexus.data.images.decode_image`."""
        values = _with_channels(np.array(decode_with(self.data, self.name, self.limits, _plain)))
        deep = deep_png(self.data)
        deep = None if deep is None else turned(deep, self.header.orientation)
        return values if deep is None or deep.shape != values.shape else deep


class ArrayPicture(Picture):
    """A picture that its source holds as an array: HDF5, zarr, DICOM, a frame of a video.

    `array` is (height, width) or (height, width, chans), upright, of any number type.
    """

    def __init__(
        self,
        array: Shaped[np.ndarray, "..."],
        name: str,
        limits: ImageLimits = DEFAULT_LIMITS,
        look: Look = RGB,
    ) -> None:
        if array.ndim not in (2, 3) or 0 in array.shape:
            raise ImageError(name, f"an array of shape {array.shape}, not (height, width[, channels])")
        if array.dtype.kind not in "buif":
            raise ImageError(name, f"an array of {array.dtype}, not of real numbers")
        check_size(array.shape[1], array.shape[0], name, limits)
        self.array = array
        self.name = name
        self.look = look

    @property
    def size(self) -> tuple[int, int]:
        """From the shape."""
        return self.array.shape[1], self.array.shape[0]

    def pixels(self, shrink: int = 1) -> Pixels:
        """The values, as bytes or 0..1; `shrink` is not honoured. `rgb` takes 1 (grey) or 3 channels."""
        if self.look.channels == "native":
            return _native(self.values(), self.name, self.look)
        return _rgb(_native(self.values(), self.name, Look("native", self.look.value_range)), self.name)

    def values(self) -> Shaped[np.ndarray, "height width chans"]:
        """The array."""
        return _with_channels(self.array)


def _plain(image: Image.Image, name: str) -> Image.Image:
    """The image with its channels as values: palettes resolved, inks and LAB as RGB."""
    if image.mode in ("P", "PA"):
        return image.convert("RGBA" if image.mode == "PA" or "transparency" in image.info else "RGB")
    if image.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        return image.convert("RGB")
    straight = {"1": "L", "La": "LA", "RGBa": "RGBA", "RGBX": "RGB"}
    return image.convert(straight[image.mode]) if image.mode in straight else image


def _with_channels(values: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "height width chans"]:
    return values[:, :, None] if values.ndim == 2 else values


def _native(values: Shaped[np.ndarray, "height width chans"], name: str, look: Look) -> Pixels:
    """Any numbers as uint8 or float32 in 0..1, by the rules at the head of this file."""
    chans, fill = values.shape[2], look.fill
    if fill is not None and len(fill) != chans:
        raise ImageError(name, f"{chans} channel{'s' * (chans > 1)}, where {len(fill)} are expected")
    if values.dtype == np.bool_:
        values = values.astype(np.uint8) * np.uint8(255)
    if values.dtype == np.uint8 and look.value_range is None:
        return values.astype(np.float32) / 255 if look.floats else np.ascontiguousarray(values)
    finite = np.isfinite(values)
    if not finite.any():
        raise ImageError(name, "no finite pixel value")
    low, high = look.value_range or _own_range(values[finite], values.dtype)
    scaled = (values.astype(np.float32) - np.float32(low)) / np.float32((high - low) or 1.0)
    if fill is None:
        return np.ascontiguousarray(np.where(finite, scaled, 0).clip(0, 1), dtype=np.float32)
    scaled = scaled.clip(0, 1)
    scaled[~finite.all(axis=2)] = fill
    return np.ascontiguousarray(scaled, dtype=np.float32)


def _own_range(values: Shaped[np.ndarray, " finite"], kind: np.dtype) -> ValueRange:
    """The range that the values themselves suggest."""
    if kind == np.uint16:
        return 0.0, 65535.0
    return usual_range(float(values.min()), float(values.max()), fractions=kind.kind == "f")


def usual_range(low: float, high: float, *, fractions: bool) -> ValueRange:
    """The customary range around `low`..`high`: up to 1 for fractions, 255 or 65535; else those two."""
    ceilings = (1.0, 255.0, 65535.0) if fractions else (255.0, 65535.0)
    return next(((0.0, top) for top in ceilings if low >= 0 and high <= top), (low, high))


def _rgb(native: Pixels, name: str) -> UInt8[np.ndarray, "height width 3"]:
    """Native pixels as 8-bit RGB."""
    chans = native.shape[2]
    if chans not in (1, 3):
        raise ImageError(name, f"{chans} channels, which are not grey or RGB")
    if native.dtype != np.uint8:
        native = np.rint(native * 255).astype(np.uint8)
    return np.repeat(native, 3, axis=2) if chans == 1 else native
