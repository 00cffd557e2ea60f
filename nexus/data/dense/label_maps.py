"""From the file of a label map to integer labels.

| stored as                                       | read as                                              |
|-------------------------------------------------|------------------------------------------------------|
| palette PNG (VOC), 8-bit or 16-bit grey, `.npy` | the numbers themselves                               |
| 1-bit                                           | 0 and 1                                              |
| RGB or RGBA with three equal channels           | that channel                                         |
| RGB or RGBA                                     | by a palette of colours; without one an error        |
| JPEG                                            | an error: compression invents labels along edges     |

A number becomes a label through one table: `VOID` for those that are ignored (255 unless told otherwise,
0 where a data set means "nothing" by it, classes called void), the others in order. What is in neither is an
error, because a wrong number of classes spoils every figure without being noticed.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Int32, Integer, UInt8
from PIL import Image

from nexus.data.dense.dataset import VOID
from nexus.data.images import ImageLimits, decode_with
from nexus.errors import DataError, ImageError

Colour = tuple[int, int, int]
MOST_CLASSES = 4096
_UNKNOWN = -2
_NUMPY = b"\x93NUMPY"
_LIMITS = ImageLimits(min_side=1)


@dataclass(frozen=True)
class LabelReader:
    """Reads label maps of one data set; a `TruthReader`.

    values    the stored number of label 0, 1, ...; None: any number is its own label
    ignored   stored numbers that mean "no label"
    palette   colour → stored number, for maps that are pictures
    """

    values: tuple[int, ...] | None = None
    ignored: tuple[int, ...] = (255,)
    palette: Mapping[Colour, int] | None = None

    def __call__(self, data: bytes, name: str) -> Int32[np.ndarray, "height width"]:
        """Labels, `VOID` where a pixel has none; `ImageError` for a damaged file, else `DataError`."""
        stored = self._stored(data, name)
        highest = int(stored.max())
        if int(stored.min()) < 0 or highest >= len(self._table):
            raise DataError(self._outside(stored, name))
        labels = self._table[stored]
        if (labels == _UNKNOWN).any():
            raise DataError(self._outside(stored, name))
        return labels

    @cached_property
    def _table(self) -> Int32[np.ndarray, " numbers"]:
        """Stored number → label."""
        table = np.full(1 << 16, _UNKNOWN, dtype=np.int32)
        if self.values is None:
            table[:MOST_CLASSES] = np.arange(MOST_CLASSES)
        else:
            table[list(self.values)] = np.arange(len(self.values))
        table[[value for value in self.ignored if 0 <= value < len(table)]] = VOID
        return table

    def _stored(self, data: bytes, name: str) -> Integer[np.ndarray, "height width"]:
        if data.startswith(_NUMPY):
            return _whole(_array(data, name), name)
        if data.startswith(b"\xff\xd8\xff"):
            raise DataError(
                f"{name} is a JPEG, whose compression invents labels along every edge, so it cannot hold a "
                "label map;"
                " save it as PNG"
            )
        return self._numbers(decode_with(data, name, _LIMITS, lambda image, _: image), name)

    def _numbers(self, image: Image.Image, name: str) -> Integer[np.ndarray, "height width"]:
        if image.mode == "P" or image.mode == "L" or image.mode.startswith("I"):
            return np.asarray(image)
        if image.mode in ("1", "LA", "PA"):
            return np.asarray(image.getchannel(0)).astype(np.uint8)
        if image.mode == "F":
            return _whole(np.asarray(image), name)
        if image.mode not in ("RGB", "RGBA"):
            raise DataError(
                f"{name} has the colour mode {image.mode}, which cannot hold labels; save it as PNG"
            )
        pixels = np.asarray(image)[:, :, :3]
        if self.palette is not None:
            return _by_colour(pixels, self.palette, name)
        if (pixels[:, :, 0] == pixels[:, :, 1]).all() and (pixels[:, :, 0] == pixels[:, :, 2]).all():
            return pixels[:, :, 0]
        raise DataError(
            f"{name} is a colour picture, and which label a colour means is not written in it; name a file "
            "with "
            "a line `red green blue name` per class by segmentation.palette=FILE, or put it beside the "
            "images as "
            "label_colors.txt, or save label numbers instead of colours"
        )

    def _outside(self, stored: Integer[np.ndarray, "height width"], name: str) -> str:
        known = set(self.values if self.values is not None else range(MOST_CLASSES)) | set(self.ignored)
        strange = [value for value in np.unique(stored).tolist() if value not in known]
        if self.values is None:
            return (
                f"{name} has the number {strange[-1]}, too large for a label ({MOST_CLASSES:,} classes at "
                "most); are "
                "these numbers of objects, or depths? A label map has one small number per class"
            )
        listed = ", ".join(map(str, strange[:5])) + (", ..." if len(strange) > 5 else "")
        span = f"{min(self.values)} to {max(self.values)}"
        return (
            f"{name} has the number {listed}, but there are {len(self.values)} classes, stored as {span}, "
            "and "
            f"{', '.join(map(str, sorted(set(self.ignored)))) or 'nothing'} is ignored; give the number of "
            "classes by "
            "segmentation.classes=N, or ignore more numbers by segmentation.ignore=[...]"
        )


def _by_colour(
    pixels: UInt8[np.ndarray, "height width 3"], palette: Mapping[Colour, int], name: str
) -> Int32[np.ndarray, "height width"]:
    """The stored number of each pixel's colour."""
    packed = (pixels.astype(np.int32) * np.array([1 << 16, 1 << 8, 1], dtype=np.int32)).sum(axis=2)
    colours, places = np.unique(packed, return_inverse=True)
    names = {(red << 16) + (green << 8) + blue: value for (red, green, blue), value in palette.items()}
    strange = [int(colour) for colour in colours if int(colour) not in names]
    if strange:
        shown = ", ".join(str((c >> 16, c >> 8 & 255, c & 255)) for c in strange[:3])
        raise DataError(
            f"{name} has {len(strange):,} colours that the palette does not know, such as {shown}; add them "
            "to the "
            "palette (many unknown colours mean that the picture was resized or compressed; make it again)"
        )
    values = np.array([names[int(colour)] for colour in colours], dtype=np.int32)
    return values[places].reshape(packed.shape)


def _array(data: bytes, name: str) -> np.ndarray:
    try:
        values = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ImageError(name, f"not a NumPy array that can be read: {error}") from None
    values = np.squeeze(values)
    if values.ndim != 2 or not values.size:
        raise DataError(f"{name} has the shape {values.shape}, but one number per pixel is wanted")
    return values


def _whole(values: np.ndarray, name: str) -> Integer[np.ndarray, "height width"]:
    if values.dtype == bool:
        return values.astype(np.uint8)
    if np.issubdtype(values.dtype, np.integer):
        return values.astype(np.int64)
    if not np.isfinite(values).all() or (values != np.round(values)).any():
        raise DataError(
            f"{name} has numbers that are not whole, so they are no labels; round them, or score depth"
        )
    return values.astype(np.int64)
