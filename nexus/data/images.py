"""One image file, whatever is in it: an upright RGB picture, or an `ImageError` that says why not.

How other kinds of pixels become 8-bit RGB (stated here because nothing is converted in silence):

* transparency (RGBA, LA, PA, a transparent palette entry or colour): composited on white;
* grey, 1-bit, palette, CMYK / YCCK, LAB, YCbCr: Pillow's conversion;
* 16-bit grey: `round(x / 257)`, so 65535 becomes 255; 16-bit RGB: the high byte (Pillow's reading);
* 32-bit integers and floats: 0..255 is kept, 0..65535 is divided by 257, floats within 0..1 are multiplied
  by 255, and anything else is stretched from its own minimum..maximum to 0..255. NaN and infinity are black;
* several frames or pages: the first one. EXIF orientation is applied; an impossible one is ignored.
"""

import errno
import io
import os
import re
import stat
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import IO, cast

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image, ImageFile, UnidentifiedImageError
from pydantic import Field

from nexus.config import Config
from nexus.data.header import Header, plain_jpeg
from nexus.errors import ImageError

Stream = io.BufferedIOBase
"""A seekable source of bytes: an open file, `io.BytesIO`, a member of an archive."""


class ImageLimits(Config):
    """Which images are refused before their pixels are decoded."""

    min_side: int = Field(default=8, ge=1)
    """Images with a side below this many pixels are skipped."""
    max_aspect: float = Field(default=100.0, ge=1.0)
    """Images whose longer side is more than this many times the shorter one are skipped."""
    max_pixels: int = Field(default=178_956_970, ge=1)
    """Images of more pixels than this are skipped as decompression bombs (the default is Pillow's limit)."""
    max_seconds: float = Field(default=60.0, gt=0)
    """A worker that spends more seconds than this on one image is replaced, and the image skipped."""


DEFAULT_LIMITS = ImageLimits()

# Pillow's other readers start programs (EPS), draw fonts or read formats that no photograph is kept in.
# TGA has no signature, so it is tried last.
_FORMATS = (
    *("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "AVIF", "ICO"),
    *("MPO", "QOI", "TGA"),
)
_SIGNATURES = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG", "PNG"),
    (b"GIF8", "GIF"),
    (b"RIFF", "WebP"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
    (b"BM", "BMP"),
    (b"\x00\x00\x00\x0cjP", "JPEG 2000"),
)
_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112
_MOST_SCANS = 500  # encoders write 10; libjpeg-turbo's own tests stop at 500


def decode_image(data: bytes, name: str, limits: ImageLimits = DEFAULT_LIMITS) -> Image.Image:
    """The picture in `data`: 8-bit RGB, upright, first frame.

    Raises `ImageError(name, reason)` for everything that can go wrong: empty, not an image, truncated,
    damaged, outside `limits`, out of memory. Half-read pictures are never returned.
    """
    return decode_with(data, name, limits, _to_rgb)


def decode_with(
    data: bytes, name: str, limits: ImageLimits, convert: Callable[[Image.Image, str], Image.Image]
) -> Image.Image:
    """`decode_image` with another conversion: `convert(image as stored, name)`, before it is set upright."""
    _check_scans(data, name)
    with _pillow(limits):
        try:
            image = _open(io.BytesIO(data), name, limits)
            image.load()
            turn = _TRANSPOSITIONS.get(_orientation(image))
            converted = convert(image, name)
            return converted.transpose(turn) if turn is not None else converted
        except ImageError:
            raise
        except Exception as error:  # Pillow's readers raise almost every built-in exception
            raise ImageError(name, _reason(error, data[:64])) from error


def read_header(data: bytes, name: str, limits: ImageLimits = DEFAULT_LIMITS) -> Header:
    """The header of an image file; the errors of `decode_image` as far as it shows them."""
    plain = plain_jpeg(data)
    if plain is not None:
        check_size(plain.width, plain.height, name, limits)
        return plain
    _check_scans(data, name)
    with _pillow(limits):
        try:
            with _open(io.BytesIO(data), name, limits) as image:
                return Header(*image.size, image.mode, image.format or "", _orientation(image))
        except ImageError:
            raise
        except Exception as error:  # as above
            raise ImageError(name, _reason(error, data[:64])) from error


def open_image(path: str | Path, limits: ImageLimits = DEFAULT_LIMITS) -> Image.Image:
    """`decode_image` of a file. What the file system refuses is an `ImageError` too."""
    return decode_image(read_file(path), str(path), limits)


def image_header(
    source: bytes | str | Path | Stream,
    name: str | None = None,
    limits: ImageLimits = DEFAULT_LIMITS,
) -> tuple[int, int, str]:
    """`(width, height, Pillow mode)` as stored, before any rotation, without decoding a pixel.

    Raises the errors of `decode_image` as far as the header shows them.
    """
    if isinstance(source, (str, Path)):
        name = name or str(source)
        with open_file(source, name) as file:
            return image_header(file, name, limits)
    stream = io.BytesIO(source) if isinstance(source, bytes) else source
    name = name or "image"
    with _pillow(limits):
        try:
            with _open(stream, name, limits) as image:
                return image.width, image.height, image.mode
        except ImageError:
            raise
        except Exception as error:  # as above
            raise ImageError(name, _reason(error, _head(stream))) from error


def read_file(path: str | Path, name: str | None = None) -> bytes:
    """The bytes of a regular file, or `ImageError`: vanished, forbidden, a folder, a link loop, a pipe."""
    name = name or str(path)
    with open_file(path, name) as file:
        try:
            return file.read()
        except OSError as error:
            raise ImageError(name, file_fault(error)) from None
        except (MemoryError, OverflowError):
            raise ImageError(name, "file too large for memory") from None


def file_fault(error: OSError) -> str:
    """Why the file system refused a file, as a short phrase."""
    known = {
        errno.ENOENT: "no such file",
        errno.ELOOP: "symbolic link loop",
        errno.EACCES: "unreadable: permission denied",
        errno.EPERM: "unreadable: permission denied",
        errno.EISDIR: "a folder, not a file",
        errno.ENOTDIR: "no such file (part of its path is a file)",
    }
    reason = known.get(error.errno or 0)
    return reason or f"unreadable: {error.strerror or error}"


def open_file(path: str | Path, name: str | None = None) -> Stream:
    """An open regular file; anything else would block (a pipe) or fail later with less to say."""
    name = name or str(path)
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise ImageError(name, "a folder, not a file")
        if not stat.S_ISREG(mode):
            raise ImageError(name, "not a regular file")
        return open(path, "rb")
    except OSError as error:
        raise ImageError(name, file_fault(error)) from None
    except ValueError as error:  # a NUL character in the path
        raise ImageError(name, f"impossible path: {error}") from None


def _open(stream: Stream, name: str, limits: ImageLimits) -> ImageFile.ImageFile:
    """The image with its header read and held against `limits`."""
    try:
        image = Image.open(cast(IO[bytes], stream), formats=_formats())
    except Image.DecompressionBombError as error:
        found = re.search(r"\((\d+) pixels\)", str(error))
        raise ImageError(name, _bomb(int(found[1]) if found else None, limits)) from None
    check_size(*image.size, name, limits)
    return image


def check_size(width: int, height: int, name: str, limits: ImageLimits) -> None:
    """Raise `ImageError` for a picture of `width` x `height` pixels outside `limits`."""
    short, long = min(width, height), max(width, height)
    if width * height > limits.max_pixels:
        raise ImageError(name, _bomb(width * height, limits))
    if short < limits.min_side:
        raise ImageError(name, f"{width} x {height} pixels, below data.limits.min_side={limits.min_side}")
    if long > limits.max_aspect * short:
        ratio = f"{long / short:.4g}"
        raise ImageError(name, f"aspect ratio {ratio}:1 above data.limits.max_aspect={limits.max_aspect:g}")


def _check_scans(data: bytes, name: str) -> None:
    """Refuse a JPEG that would be decoded for minutes: each scan of a progressive one visits every pixel.

    Counted before decoding. The marker cannot occur in the coded pixels, only in metadata by chance.
    """
    if data.startswith(b"\xff\xd8") and (scans := _scans(data)) > _MOST_SCANS:
        raise ImageError(name, f"JPEG of {scans:,} scans, above {_MOST_SCANS} (a bomb for decoders?)")


def _scans(data: bytes) -> int:
    """How often the marker FF DA occurs; compared as pairs, a sixth of the time of `bytes.count`."""
    pairs = (np.frombuffer(data, "<u2", (len(data) - start) // 2, start) for start in (0, 1))
    return sum(int(np.count_nonzero(pair == 0xDAFF)) for pair in pairs)


def _bomb(pixels: int | None, limits: ImageLimits) -> str:
    size = f"{pixels:,} pixels" if pixels else "number of pixels"
    return (
        f"{size} above data.limits.max_pixels={limits.max_pixels:,} (a decompression bomb?); "
        "set data.limits.max_pixels to raise it"
    )


@cache
def _formats() -> tuple[str, ...]:
    """The readers of `_FORMATS` that this build of Pillow has."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _reason(error: Exception, head: bytes) -> str:
    """One phrase for what Pillow raised; `head` is the beginning of the file."""
    kind = next((kind for magic, kind in _SIGNATURES if head.startswith(magic)), "image")
    if isinstance(error, Image.DecompressionBombError):
        return f"decompression bomb: {error}"
    if isinstance(error, MemoryError):
        return f"{kind} does not fit into memory"
    if isinstance(error, UnidentifiedImageError):
        return f"truncated or damaged {kind} header" if kind != "image" else _not_an_image(head)
    text = str(error) or type(error).__name__
    cut = isinstance(error, EOFError) or re.search(r"truncated|not processed|not enough", text, re.I)
    return f"{'truncated' if cut else 'damaged'} {kind}: {text}"


def _not_an_image(head: bytes) -> str:
    if not head:
        return "empty file"
    if not head.strip(b"\x00"):
        return "not an image (begins with zero bytes, perhaps an interrupted download)"
    text = head.decode("utf-8", errors="ignore")
    if len(text.encode()) >= len(head) - 3 and all(c.isprintable() or c.isspace() for c in text):
        return f"not an image (text: {' '.join(text.split())[:32]!r})"
    return "not an image"


def _head(stream: Stream) -> bytes:
    try:
        stream.seek(0)
        return stream.read(64)
    except Exception:  # only wanted for a better message
        return b"?"


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation 1..8, or 1 where the metadata cannot be understood: the pixels are fine."""
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
        return orientation if orientation in _TRANSPOSITIONS else 1
    except Exception:
        return 1


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    mode = image.mode
    if mode == "I" or mode == "F" or mode.startswith("I;16"):
        return Image.fromarray(_eight_bits(np.asarray(image), name)).convert("RGB")
    if mode == "La":
        image = image.convert("LA")
    if mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        return _on_white(image.convert("RGBA"))
    return image if mode == "RGB" else image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    if image.getchannel("A").getextrema() == (255, 255):
        return image.convert("RGB")
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, image).convert("RGB")


def _eight_bits(values: Shaped[np.ndarray, "height width"], name: str) -> UInt8[np.ndarray, "height width"]:
    """Grey levels as bytes, by the rules at the head of this file."""
    if values.dtype.itemsize == 2 and values.dtype.kind == "u":
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    grey = values.astype(np.float64)
    finite = np.isfinite(grey)
    if not finite.any():
        raise ImageError(name, "no finite pixel value")
    low, high = float(grey[finite].min()), float(grey[finite].max())
    if low >= 0 and high <= 1 and values.dtype.kind == "f":
        low, high = 0.0, 1.0
    elif low >= 0 and high <= 255:
        low, high = 0.0, 255.0
    elif low >= 0 and high <= 65535:
        low, high = 0.0, 65535.0
    span = (high - low) or 1.0
    scaled = (np.where(finite, grey, low) - low) * (255.0 / span)
    return np.rint(scaled).astype(np.uint8)


class _Guard:
    """Pillow's process-wide settings while at least one thread decodes here.

    Warnings of Pillow (bombs, corrupt EXIF) are silent, its bomb limit is at least ours, and reading
    truncated files is off whoever switched it on. The first thread in sets, the last one out restores.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inside = 0

    def enter(self, limits: ImageLimits) -> None:
        with self.lock:
            if self.inside == 0:
                self.warnings = warnings.catch_warnings()
                self.warnings.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\b|nexus\.data\.images")
                self.settings = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
                ImageFile.LOAD_TRUNCATED_IMAGES = False
            if Image.MAX_IMAGE_PIXELS is not None:  # Pillow refuses at twice this number
                Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, (limits.max_pixels + 1) // 2)
            self.inside += 1

    def leave(self) -> None:
        with self.lock:
            self.inside -= 1
            if self.inside == 0:
                self.warnings.__exit__(None, None, None)
                Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = self.settings

    def renew_lock(self) -> None:
        """A process forked while another thread held the lock would wait for ever."""
        self.lock = threading.Lock()


_GUARD = _Guard()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_GUARD.renew_lock)


@contextmanager
def _pillow(limits: ImageLimits) -> Iterator[None]:
    _GUARD.enter(limits)
    try:
        yield
    finally:
        _GUARD.leave()
