"""Rasters with any number of bands: GeoTIFF and other TIFF, read by `tifffile`.

A folder or file of TIFFs is read this way where an option says how (`?bands=4,3,2`, `?range=0,3000`,
`?nodata=-9999`, or `?bands=all`), or where Pillow cannot read the first one, because it has five bands, say.
Otherwise it is a folder of images like any other. The no-data
value of a file (GDAL's tag 42113) counts where the option does not say another.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped
from PIL import Image

from nexus.data.datasets.address import Address
from nexus.data.datasets.extras import optional
from nexus.data.datasets.folder import FileDataset, open_folder
from nexus.data.datasets.names import extension
from nexus.data.datasets.pixels import PIXEL_OPTIONS, PixelDataset, Reading, reading
from nexus.data.datasets.source import Source
from nexus.data.images import ImageLimits, image_header, open_file
from nexus.errors import DataError, ImageError

TIFF_ENDINGS = frozenset({".tif", ".tiff"})
_NODATA, _SAMPLES, _BITS = 42113, 277, 258


class RasterDataset(PixelDataset):
    """The TIFF files of a folder, with all their bands."""

    def __init__(self, files: FileDataset, keep: list[int], how: Reading) -> None:
        chosen = files.subset(keep)
        super().__init__(
            f"rasters in {files.description}", files.limits, how, chosen.labels, files.classes, files.faults
        )
        self.files = files
        self.keep = np.asarray(keep, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.keep)

    def name(self, i: int) -> str:
        """The path below the folder."""
        return self.files.name(int(self.keep[i]))

    def array(self, i: int) -> Shaped[np.ndarray, "..."]:
        """The first image of the file, bands last."""
        return self._read(i)[0]

    def nodata(self, i: int) -> float | None:
        """The value of the option, else of the file."""
        return self.how.nodata if self.how.nodata is not None else self._read(i, pixels=False)[1]

    def _read(self, i: int, pixels: bool = True) -> tuple[Shaped[np.ndarray, "..."], float | None]:
        tifffile = optional("tifffile", "geotiff", "reading TIFF with bands")
        name = self.name(i)
        with open_file(self.files.path(int(self.keep[i])), name) as file:
            try:
                with tifffile.TiffFile(file) as tiff:
                    series = tiff.series[0]
                    limit = self.limits.max_pixels
                    if series.keyframe.imagelength * series.keyframe.imagewidth > limit:
                        raise ImageError(name, f"more pixels than data.limits.max_pixels={limit:,}")
                    tag = series.keyframe.tags.get(_NODATA)
                    values = _bands_last(series.asarray(), series.axes) if pixels else np.empty((0, 0))
                    return values, _number(tag.value if tag else None)
            except ImageError:
                raise
            except Exception as error:  # tifffile raises whatever a damaged file provokes
                raise ImageError(name, f"not a readable TIFF: {error or type(error).__name__}") from error


def _bands_last(values: Shaped[np.ndarray, "..."], axes: str) -> Shaped[np.ndarray, "..."]:
    """(height, width[, bands]) of an array with tifffile's axes: Y, X; S and C are bands, so are equal pages
    where nothing else is; of all other axes (time, depth, ...) the first is taken.
    """
    bands = next((axis for axis in "SCIQ" if axis in axes), None)
    order: list[str] = []
    for at, axis in reversed(list(enumerate(axes))):
        if axis in ("Y", "X", bands):
            order.insert(0, axis)
        else:
            values = np.take(values, 0, axis=at)
    return values.transpose([order.index(axis) for axis in ("Y", "X", bands) if axis in order])


def _number(value: Any) -> float | None:
    try:
        return float(str(value).strip(" \0"))
    except ValueError:
        return None


def needs_tifffile(path: Path) -> bool:
    """Whether a TIFF has bands that tifffile, which is installed, can read, and Pillow cannot."""
    try:
        image_header(path)
        if not _has_deep_bands(path):
            return False
    except ImageError as error:
        if "data.limits" in error.reason:
            return False
    try:
        tifffile = optional("tifffile", "geotiff", "reading TIFF with bands")
        with tifffile.TiffFile(path) as tiff:
            return tiff.pages[0].samplesperpixel > 1 or len(tiff.series[0].shape) > 2
    except Exception:  # a damaged file, or no tifffile: an unreadable image among others
        return False


def _has_deep_bands(path: Path) -> bool:
    """Whether Pillow, which reads the header, would fail at the pixels or read only their high bytes."""
    with Image.open(path) as image:
        tags = getattr(image, "tag_v2", {})
        bands, bits = tags.get(_SAMPLES, 1), tags.get(_BITS, (8,))
    return bands > 4 or (bands > 1 and max(bits) > 8)


def raster_source(address: Address) -> Source:
    """The TIFFs at an address with options."""
    address.only(*PIXEL_OPTIONS)
    options = {key: value for key, value in address.options.items() if (key, value) != ("bands", "all")}
    how = reading(dataclasses.replace(address, options=options))

    def open_it(split: str | None, limits: ImageLimits) -> RasterDataset:
        path = address.path
        if path.is_dir():
            files = open_folder(path, split, limits)
        else:
            files = FileDataset(path.parent, [path.name], f"file {path}", limits)
        keep = [i for i in range(len(files)) if extension(files.name(i)) in TIFF_ENDINGS]
        if not keep:
            raise DataError(f"{address.text}: options are for TIFF files, and there is none in {path}")
        return RasterDataset(files, keep, how)

    return Source(address.text, open_it, lambda: splits_of(address.path))


def splits_of(path: Path) -> tuple[str, ...]:
    """The split folders of a folder; none of a file."""
    from nexus.data.datasets.folder import folder_splits

    return folder_splits(path) if path.is_dir() else ()
