"""Sources that hold numbers instead of image files: arrays, DICOM, rasters, frames of a video.

Which numbers become the picture is said in the address:

* `?bands=4,3,2`  these channels, counted from 1, in this order. Left out, `native` pictures have all of them;
  RGB ones are made of the only one (grey), the first of two (grey), or the first three
* `?range=0,3000` the values that become black and white. Left out: the rules of `nexus.data.picture`
* `?nodata=-9999` the value that stands for nothing; such pixels are 0 in the picture and False in `valid`
"""

import io
from abc import abstractmethod
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Shaped
from PIL import Image

from nexus.data.batch import Fault, Sample
from nexus.data.datasets.address import Address
from nexus.data.datasets.base import ImageDataset
from nexus.data.datasets.labels import Classes, Labels
from nexus.data.images import ImageLimits
from nexus.data.picture import ArrayPicture, Look, ValueRange
from nexus.errors import DataError, ImageError

PIXEL_OPTIONS = ("bands", "range", "nodata")


@dataclass(frozen=True)
class Reading:
    """How numbers become pixels; see the head of this file. `bands` count from 1."""

    bands: tuple[int, ...] | None = None
    value_range: ValueRange | None = None
    nodata: float | None = None


def reading(address: Address) -> Reading:
    """The options of an address that say how its numbers are read; `DataError` for impossible ones."""
    bands = _numbers(address, "bands")
    if bands is not None and not all(band >= 1 and band.is_integer() for band in bands):
        raise DataError(f"{address.text}: bands are whole numbers from 1 on, such as bands=3,2,1")
    span = _numbers(address, "range")
    if span is not None and (len(span) != 2 or span[0] >= span[1]):
        raise DataError(f"{address.text}: range is two numbers, black and white, such as range=0,3000")
    nodata = _numbers(address, "nodata")
    if nodata is not None and len(nodata) != 1:
        raise DataError(f"{address.text}: nodata is one number, such as nodata=-9999")
    return Reading(
        None if bands is None else tuple(int(band) for band in bands),
        None if span is None else (span[0], span[1]),
        None if nodata is None else nodata[0],
    )


def _numbers(address: Address, option: str) -> list[float] | None:
    text = address.options.get(option)
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise DataError(f"{address.text}: {option}={text} is not a number or several with commas") from None


class PixelDataset(ImageDataset):
    """A source of arrays. `array(i)` gives the stored values; everything else follows from it."""

    def __init__(
        self,
        description: str,
        limits: ImageLimits,
        how: Reading = Reading(),
        labels: Labels | None = None,
        classes: Classes = (),
        faults: tuple[Fault, ...] = (),
    ) -> None:
        super().__init__(description, limits, labels, classes, faults)
        self.how = how

    @abstractmethod
    def array(self, i: int) -> Shaped[np.ndarray, "..."]:
        """The stored values of image `i`: (height, width) or (height, width, chans); or `ImageError`."""

    def nodata(self, i: int) -> float | None:
        """The value that stands for nothing in image `i`."""
        return self.how.nodata

    def value_range(self, i: int) -> ValueRange | None:
        """The values of image `i` that become black and white, where its source says so."""
        return self.how.value_range

    def picture(self, i: int) -> ArrayPicture:
        """The chosen bands; no-data pixels are 0, or what the look fills them with."""
        array = self._bands(self.array(i), self.name(i))
        span, nodata = self.value_range(i) or self.look.value_range, self.nodata(i)
        if nodata is not None:
            if span is None and array.dtype.kind == "u":
                span = 0.0, float(np.iinfo(array.dtype).max)
            array = np.where(_is(array, nodata), np.nan, array.astype(np.float32))
        return ArrayPicture(array, self.name(i), self.limits, replace(self.look, value_range=span))

    def valid(self, i: int) -> Bool[np.ndarray, "height width"]:
        """False where a chosen band of image `i` holds no data: the no-data value, NaN or infinity."""
        return self.picture(i).valid()

    def image(self, i: int) -> Image.Image:
        """The RGB view."""
        picture = self.picture(i)
        if self.look.channels != "rgb":
            array = self._select(picture.array, picture.name)
            look = Look(value_range=picture.look.value_range)
            picture = ArrayPicture(array, picture.name, self.limits, look)
        return Image.fromarray(picture.pixels())

    def stored(self, i: int) -> bytes:
        """The array as it lies in memory, after how it is read."""
        array = np.ascontiguousarray(self.array(i))
        return f"{array.dtype.str} {array.shape} {self.how}".encode() + array.tobytes()

    def header(self, i: int) -> tuple[int, int, str]:
        """`(width, height, mode)`; the mode is the number of channels and the type: `4 x uint16`."""
        array = self.array(i)
        picture = ArrayPicture(array, self.name(i), self.limits)
        chans = array.shape[2] if array.ndim == 3 else 1
        return (*picture.size, array.dtype.name if chans == 1 else f"{chans} x {array.dtype.name}")

    def read(self, i: int) -> bytes:
        """The RGB view as PNG."""
        file = io.BytesIO()
        self.image(i).save(file, "PNG", compress_level=1)
        return file.getvalue()

    def __getitem__(self, i: int) -> Sample:
        i = self._position(i)
        return Sample(image=self.image(i), name=self.name(i), index=i, label=self.label(i))

    def _bands(self, array: Shaped[np.ndarray, "..."], name: str) -> Shaped[np.ndarray, "..."]:
        if self.look.channels == "rgb" or self.how.bands is not None:
            return self._select(array, name)
        return array

    def _select(self, array: Shaped[np.ndarray, "..."], name: str) -> Shaped[np.ndarray, "..."]:
        """The bands that were asked for; without a wish those of the RGB view."""
        if array.ndim != 3:
            return array
        chans, bands = array.shape[2], self.how.bands
        if bands is None:
            return array if chans in (1, 3) else array[:, :, : 1 if chans == 2 else 3]
        if self.look.channels == "native" and chans == len(bands):
            return array
        if max(bands) > chans:
            raise ImageError(name, f"has {chans} bands, so there is no band {max(bands)}")
        return array[:, :, [band - 1 for band in bands]]


def _is(array: Shaped[np.ndarray, "..."], nodata: float) -> Bool[np.ndarray, "..."]:
    return np.isnan(array) if np.isnan(nodata) else array == np.asarray(nodata).astype(array.dtype)
