"""The register of sources: each line is one sort of file or folder, and how it is recognised.

To add one, write its module and add its line. The first line that fits wins.
"""

import os
import stat
import tarfile
import zipfile
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from nexus.data.datasets.address import Address
from nexus.data.datasets.arrays import hdf5_source, npy_source, npz_source, zarr_source
from nexus.data.datasets.arrow import is_saved, saved_source
from nexus.data.datasets.base import ImageDataset
from nexus.data.datasets.dicom import DICOM_ENDINGS, dicom_source
from nexus.data.datasets.folder import FileDataset, describe, folder_splits, open_folder
from nexus.data.datasets.known.imagenet import imagenet_source, is_imagenet
from nexus.data.datasets.known.inaturalist import inaturalist_source, inaturalist_year
from nexus.data.datasets.known.places import places_name, places_source
from nexus.data.datasets.known.shifted import shifted_name, shifted_source
from nexus.data.datasets.labels import folder_labels
from nexus.data.datasets.listing import LIST_ENDINGS, list_source
from nexus.data.datasets.lmdb import is_lmdb, lmdb_source
from nexus.data.datasets.names import extension, is_image_name
from nexus.data.datasets.pack import has_manifest, is_pack, is_tar_name, open_pack, pack_splits, tars_in
from nexus.data.datasets.parquet import parquet_folder_source
from nexus.data.datasets.raster import TIFF_ENDINGS, needs_tifffile, raster_source
from nexus.data.datasets.shards import open_shards
from nexus.data.datasets.source import Source, whole
from nexus.data.datasets.video import VIDEO_ENDINGS, video_source
from nexus.data.datasets.zips import open_zip
from nexus.data.images import ImageLimits
from nexus.errors import DataError

_PEEK = 2_000

SINGLE = DICOM_ENDINGS | VIDEO_ENDINGS | {".zip", ".parquet", ".npy", ".npz", ".h5", ".hdf5", ".lmdb"}
"""Endings of files, beside images and tars, that are sources of their own where a pattern matches them."""


@dataclass(frozen=True)
class Place:
    """What a look at a path shows: the first bytes of a file, or the endings below a folder."""

    path: Path
    head: bytes = b""
    endings: Counter[str] | None = None
    folders: bool = False
    """Whether the folder has sub-folders."""
    tiff: Path | None = None
    """The first TIFF that was seen."""

    def only(self, endings: frozenset[str]) -> bool:
        """Whether a folder holds files with these endings and no images."""
        found = self.endings or Counter()
        return any(e in endings for e in found) and not any(is_image_name(f"x{e}") for e in found)


@dataclass(frozen=True)
class Kind:
    """One sort of source."""

    what: str
    fits: Callable[[Place], bool]
    source: Callable[[Address], Source]


def recognise(address: Address) -> Source:
    """The source at an existing place; `DataError` for what is not one."""
    path = address.path
    place, kinds = (_folder(path), FOLDERS) if path.is_dir() else (_file(path), FILES)
    kind = next((kind for kind in kinds if kind.fits(place)), None)
    if kind is None:
        known = ", ".join(kind.what for kind in FILES[:-1]) + f" or {FILES[-1].what}"
        raise DataError(
            f"{path} is not recognised as {known}; "
            f"it begins with {place.head[:8]!r}" + ("" if place.head else " (it is empty)")
        )
    return kind.source(address)


def _file(path: Path) -> Place:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise DataError(f"{path} is no regular file; a pipe or a device cannot be read at any place")
        with open(path, "rb") as file:
            return Place(path, file.read(4096))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None


def _folder(path: Path) -> Place:
    """A look at the first few thousand files below a folder."""
    endings: Counter[str] = Counter()
    folders = deque([str(path)])
    nested, tiff = False, None
    try:
        os.scandir(path).close()
    except OSError as error:
        raise DataError(f"cannot read the folder {path}: {error.strerror or error}") from None
    while folders and endings.total() < _PEEK:
        with suppress(OSError), os.scandir(folders.popleft()) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    nested = True
                    folders.append(entry.path)
                else:
                    endings[extension(entry.name)] += 1
                    if tiff is None and extension(entry.name) in TIFF_ENDINGS:
                        tiff = Path(entry.path)
                if endings.total() >= _PEEK:
                    break
    return Place(path, endings=endings, folders=nested, tiff=tiff)


def images_source(paths: list[Path], root: Path, what: str, ignored: int = 0) -> Source:
    """Image files by their paths below `root`."""

    def open_it(limits: ImageLimits) -> FileDataset:
        names = [path.relative_to(root).as_posix() for path in paths]
        labels, classes = folder_labels(names)
        return FileDataset(root, names, describe(what, len(names), labels, ignored), limits, labels, classes)

    return whole(what, open_it)


def tars_source(paths: list[Path]) -> Source:
    """Archives by name; a manifest beside them says which members are images and what they show."""
    folder = paths[0].parent
    text = ", ".join(map(str, paths))
    if not (has_manifest(folder) and all(path.parent == folder for path in paths)):
        return whole(text, lambda limits: open_shards(paths, limits))
    return Source(
        text,
        lambda split, limits: open_pack(folder, split, limits, paths) or open_shards(paths, limits),
        lambda: pack_splits(folder, paths),
    )


def _one_image(address: Address) -> Source:
    path = address.path
    if address.options or (extension(path.name) in TIFF_ENDINGS and needs_tifffile(path)):
        return raster_source(address)
    return images_source([address.path], address.path.parent, f"image {address.path}")


def _zip(address: Address) -> Source:
    address.only()
    return whole(address.text, lambda limits: open_zip(address.path, limits))


def _tar(address: Address) -> Source:
    address.only()
    return tars_source([address.path])


def _pack(address: Address) -> Source:
    address.only()
    path = address.path

    def open_it(split: str | None, limits: ImageLimits) -> ImageDataset:
        dataset = open_pack(path, split, limits)
        assert dataset is not None, "None is only for archives given by name"
        return dataset

    return Source(address.text, open_it, lambda: pack_splits(path))


def _tar_folder(address: Address) -> Source:
    address.only()
    tars = tars_in(address.path)
    return whole(address.text, lambda limits: open_shards(tars, limits))


def _image_folder(address: Address) -> Source:
    if address.options:
        return raster_source(address)
    path = address.path
    return Source(
        address.text, lambda split, limits: open_folder(path, split, limits), lambda: folder_splits(path)
    )


def _is_zip(place: Place) -> bool:
    zipped = place.head[:4] == b"PK\x03\x04" or extension(place.path.name) == ".zip"
    return zipped or zipfile.is_zipfile(place.path)


def _is_tar(place: Place) -> bool:
    if is_tar_name(place.path.name) or place.head[257:262] == b"ustar":
        return True
    try:
        return place.head[:2] == b"\x1f\x8b" and tarfile.is_tarfile(place.path)
    except (OSError, EOFError):
        return False


def _is_list(place: Place) -> bool:
    text = bool(place.head) and b"\0" not in place.head
    return place.head[:4] == b"PAR1" or extension(place.path.name) in LIST_ENDINGS or text


def _has(*names: str) -> Callable[[Place], bool]:
    return lambda place: any((place.path / name).exists() for name in names)


def _ends(endings: frozenset[str]) -> Callable[[Place], bool]:
    return lambda place: extension(place.path.name) in endings


def _is_hdf5(place: Place) -> bool:
    return place.head[:8] == b"\x89HDF\r\n\x1a\n" or extension(place.path.name) in (".h5", ".hdf5")


FILES = (
    Kind("an image", lambda place: is_image_name(place.path.name), _one_image),
    Kind("NumPy arrays", _ends(frozenset({".npz"})), npz_source),
    Kind(
        "a NumPy array",
        lambda place: place.head[:6] == b"\x93NUMPY" or _ends(frozenset({".npy"}))(place),
        npy_source,
    ),
    Kind("HDF5", _is_hdf5, hdf5_source),
    Kind(
        "LMDB", lambda place: is_lmdb(place.path) or _ends(frozenset({".lmdb", ".mdb"}))(place), lmdb_source
    ),
    Kind("DICOM", lambda place: place.head[128:132] == b"DICM" or _ends(DICOM_ENDINGS)(place), dicom_source),
    Kind("a video", _ends(VIDEO_ENDINGS), video_source),
    Kind("a zip", _is_zip, _zip),
    Kind("a tar", _is_tar, _tar),
    Kind("a list or a table", _is_list, list_source),
)

FOLDERS = (
    Kind("a pack", lambda place: is_pack(place.path), _pack),
    Kind("ImageNet-1k", lambda place: is_imagenet(place.path), imagenet_source),
    Kind(
        "ImageNet-V2, -R, -A or -Sketch", lambda place: shifted_name(place.path) is not None, shifted_source
    ),
    Kind("iNaturalist", lambda place: inaturalist_year(place.path) is not None, inaturalist_source),
    Kind("Places", lambda place: places_name(place.path) is not None, places_source),
    Kind("LMDB", lambda place: is_lmdb(place.path), lmdb_source),
    Kind("zarr", _has("zarr.json", ".zarray", ".zgroup"), zarr_source),
    Kind("a saved Hugging Face data set", lambda place: is_saved(place.path), saved_source),
    Kind(
        "tar shards",
        lambda place: (
            not place.folders and place.only(frozenset({".tar", ".gz", ".tgz"})) and bool(tars_in(place.path))
        ),
        _tar_folder,
    ),
    Kind("parquet tables", lambda place: place.only(frozenset({".parquet"})), parquet_folder_source),
    Kind("DICOM files", lambda place: place.only(DICOM_ENDINGS), dicom_source),
    Kind("videos", lambda place: place.only(VIDEO_ENDINGS), video_source),
    Kind("rasters", lambda place: place.tiff is not None and needs_tifffile(place.tiff), raster_source),
    Kind("image files", lambda place: True, _image_folder),
)
