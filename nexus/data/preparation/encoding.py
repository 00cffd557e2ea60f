"""One image of a pack: resized once, never enlarged, and encoded again.

| the image has                             | it is stored as                                          |
|-------------------------------------------|----------------------------------------------------------|
| a JPEG file, upright and small enough     | its own bytes, so nothing is lost                        |
| 8-bit grey or RGB                         | JPEG                                                     |
| transparency that is used anywhere        | PNG; where every pixel is opaque, alpha is dropped: JPEG |
| 16-bit grey                               | 16-bit PNG                                               |
| 32-bit or signed integers, floats, grey   | 32-bit TIFF                                              |
| other numbers of channels                 | refused: no image format of a pack holds them            |
"""

import io

import numpy as np
from PIL import Image

from nexus.data.picture import EncodedPicture, Picture
from nexus.errors import ImageError

Encoded = tuple[bytes, str]
"""The contents of a file, and the ending of its name, without a dot."""

_COLOURS = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


def encode(picture: Picture, size: int | None, quality: int) -> Encoded:
    """The picture with its shorter side at most `size` pixels; JPEG at `quality` where that is allowed.

    Resizing is Pillow's bicubic, antialiased. Raises `ImageError` for one that cannot be read or stored.
    """
    if isinstance(picture, EncodedPicture) and (kept := _kept(picture, size)) is not None:
        return kept
    values = picture.values()
    chans = values.shape[2]
    if values.dtype == np.bool_:
        values = values.astype(np.uint8) * np.uint8(255)
    alpha = isinstance(picture, EncodedPicture) and chans in (2, 4)
    if not (chans in (1, 3) or alpha) or (values.dtype != np.uint8 and chans > 1):
        raise ImageError(
            picture.name,
            f"{chans} channels of {values.dtype}, which no file in a pack can hold; keep its source as it is",
        )
    if values.dtype == np.uint8:
        return _of_bytes(values, alpha, size, quality)
    return _of_grey(values[:, :, 0], size)


def _kept(picture: EncodedPicture, size: int | None) -> Encoded | None:
    """The file itself, where it is a JPEG that needs no change; read once, so that a damaged one is found."""
    header = picture.header
    if header.format != "JPEG" or header.mode not in ("L", "RGB") or header.orientation != 1:
        return None
    if size is not None and min(header.upright) > size:
        return None
    EncodedPicture(picture.data, picture.name, picture.limits).pixels()
    return picture.data, "jpg"


def _of_bytes(values: np.ndarray, alpha: bool, size: int | None, quality: int) -> Encoded:
    if alpha and (values[:, :, -1] == 255).all():
        values, alpha = values[:, :, :-1], False
    plain = values[:, :, 0] if values.shape[2] == 1 else values
    image = _smaller(Image.fromarray(np.ascontiguousarray(plain), _COLOURS[values.shape[2]]), size)
    return (_file(image, "PNG"), "png") if alpha else (_file(image, "JPEG", quality=quality), "jpg")


def _of_grey(values: np.ndarray, size: int | None) -> Encoded:
    """One channel deeper than 8 bits; nothing is lost but by resizing, and float64 becomes float32."""
    fractions, deep = values.dtype.kind == "f", values.dtype == np.uint16
    kind = np.float32 if fractions else np.uint16 if deep else np.int32
    if size is not None and min(values.shape) > size:
        resized = np.asarray(_smaller(Image.fromarray(values.astype(np.float32)), size))
        limits = None if fractions else np.iinfo(values.dtype)
        values = resized if limits is None else np.rint(resized).clip(limits.min, limits.max)
    if kind == np.int32 and values.max() > np.iinfo(np.int32).max:
        values = values.astype(np.float64)
        kind = np.float32
    image = Image.fromarray(values.astype(kind))
    return (_file(image, "PNG"), "png") if deep else (_file(image, "TIFF", compression="tiff_lzw"), "tif")


def _smaller(image: Image.Image, size: int | None) -> Image.Image:
    """The image with its shorter side at `size`, if that is longer now."""
    shorter = min(image.size)
    if size is None or shorter <= size:
        return image
    width, height = (max(1, round(side * size / shorter)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def _file(image: Image.Image, kind: str, **settings: int | str) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return file.getvalue()
