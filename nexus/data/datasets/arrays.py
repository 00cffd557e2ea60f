"""Images in arrays: NumPy's `.npy` and `.npz`, HDF5, zarr.

An array of images is (images, height, width), (images, height, width, chans) or (images, chans, height,
width); `?layout=` HWC or CHW decides where the shape leaves a doubt. `FILE:NAME` names one of several arrays
of a file. Labels are a one-dimensional array of the same length beside it: `labels`, `y`, `train_labels` for
`train_images`, ...
"""

import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from nexus.data.datasets.address import Address
from nexus.data.datasets.extras import optional
from nexus.data.datasets.folder import describe
from nexus.data.datasets.labels import Classes, Labels, encode_labels
from nexus.data.datasets.pixels import PIXEL_OPTIONS, PixelDataset, Reading, reading
from nexus.data.datasets.source import Source, whole
from nexus.data.images import ImageLimits, file_fault
from nexus.errors import DataError, ImageError, unknown

_LABEL_NAMES = ("labels", "label", "y", "targets", "target", "classes", "class")
_PAIRS = (
    ("images", "labels"),
    ("image", "label"),
    ("imgs", "labels"),
    ("data", "labels"),
    ("x", "y"),
    ("X", "y"),
)
_MANY_CHANNELS = 32

Container = Callable[[str], Mapping[str, Any]]
"""Opens a path as named arrays; every array has shape and dtype, and reads rows when it is indexed."""


def open_npy(path: str) -> Mapping[str, Any]:
    """The array of a `.npy`, mapped into memory, under the name of its file; labels beside it."""
    found = {Path(path).stem: np.load(path, mmap_mode="r", allow_pickle=False)}
    for name in _label_names(Path(path).stem):
        beside = Path(path).with_name(f"{name}.npy")
        if beside.is_file() and str(beside) != path:
            found[name] = np.load(beside, mmap_mode="r", allow_pickle=False)
    return found


def open_npz(path: str) -> Mapping[str, Any]:
    """The arrays of a `.npz`; each is decompressed as a whole when it is first used."""
    with open(path, "rb") as file:
        if not zipfile.is_zipfile(file):
            raise ValueError("not a complete zip archive")
    return _Unpacked(np.load(path, allow_pickle=False))


class _Unpacked(dict):
    """Arrays of a `.npz`, read once each."""

    def __init__(self, archive: Any) -> None:
        super().__init__(dict.fromkeys(archive.files))
        self.archive = archive

    def __getitem__(self, name: str) -> Any:
        if super().__getitem__(name) is None:
            self[name] = self.archive[name]
        return super().__getitem__(name)


def open_hdf5(path: str) -> Mapping[str, Any]:
    """The data sets of an HDF5 file, at any depth."""
    h5py = optional("h5py", "hdf5", "reading HDF5")
    found: dict[str, Any] = {}
    file = h5py.File(path, "r", locking=False)
    file.visititems(lambda name, item: found.update({name: item}) if isinstance(item, h5py.Dataset) else None)
    return found


def open_zarr(path: str) -> Mapping[str, Any]:
    """The arrays of a zarr group, at any depth; a single array under the name of its folder."""
    zarr = optional("zarr", "zarr", "reading zarr")
    item = zarr.open(path, mode="r")
    if hasattr(item, "dtype"):
        return {Path(path).name: item}
    return {name: array for name, array in item.members(max_depth=None) if hasattr(array, "dtype")}


class StackDataset(PixelDataset):
    """The images of one array, in order."""

    def __init__(
        self,
        container: Container,
        path: Path,
        key: str,
        shape: Sequence[int],
        layout: str,
        description: str,
        limits: ImageLimits,
        how: Reading,
        labels: Labels | None,
        classes: Classes,
    ) -> None:
        super().__init__(description, limits, how, labels, classes)
        self.container = container
        self.path = str(path.absolute())
        self.key = key
        self.count = int(shape[0])
        self.layout = layout
        self._pid = os.getpid()
        self._array: Any = None

    def __len__(self) -> int:
        return self.count

    def name(self, i: int) -> str:
        """`images/000012`: the array and the row."""
        return f"{self.key}/{i:06d}"

    def array(self, i: int) -> Shaped[np.ndarray, "..."]:
        """Row `i`, channels last; `ImageError` where the file is gone, cut or damaged."""
        try:
            if self._array is None or self._pid != os.getpid():
                self._array, self._pid = self.container(self.path)[self.key], os.getpid()
            values = np.asarray(self._array[i])
        except DataError:
            raise
        except OSError as error:
            raise ImageError(self.name(i), f"its file: {file_fault(error)}") from None
        except Exception as error:  # whatever a library raises for a damaged file
            raise ImageError(self.name(i), f"its file is damaged: {error}") from error
        return np.moveaxis(values, 0, 2) if self.layout == "CHW" else values

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_array": None}


def npy_source(address: Address) -> Source:
    """A `.npy` file."""
    return _source(address, open_npy, "NumPy array")


def npz_source(address: Address) -> Source:
    """A `.npz` file."""
    return _source(address, open_npz, "NumPy arrays")


def hdf5_source(address: Address) -> Source:
    """An HDF5 file."""
    return _source(address, open_hdf5, "HDF5")


def zarr_source(address: Address) -> Source:
    """A zarr folder."""
    return _source(address, open_zarr, "zarr")


def _source(address: Address, container: Container, what: str) -> Source:
    address.only(*PIXEL_OPTIONS, "layout", inner=True)
    how = reading(address)
    return whole(address.text, lambda limits: _open(address, container, what, how, limits))


def _open(
    address: Address, container: Container, what: str, how: Reading, limits: ImageLimits
) -> StackDataset:
    try:
        arrays = container(str(address.path))
        key = address.inner.strip("/") if address.inner else _only_stack(address.path, arrays)
        if key not in arrays:
            raise DataError(f"{address.path}: {unknown('array', key, arrays)}")
        array = arrays[key]
        shape, kind = tuple(array.shape), np.dtype(array.dtype)
        labels, classes = _labels(arrays, key, shape[0] if shape else 0)
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"cannot read {address.path} as {what}: {error.strerror or error}") from None
    except Exception as error:  # ValueError, KeyError, BadZipFile, zarr's own errors
        raise DataError(f"{address.path} is not readable {what}: {error}") from None
    if not _is_stack(shape, kind):
        raise DataError(
            f"{address.path}:{key} is {kind} of shape {shape}; images are numbers of shape "
            "(images, height, width[, channels])"
        )
    layout = address.options.get("layout", _layout(shape)).upper()
    if layout not in ("HWC", "CHW"):
        raise DataError(f"{address.text}: layout={layout}; known are HWC (channels last) and CHW")
    description = describe(f"{what} {address.path}:{key}, {kind} {shape}", shape[0], labels)
    return StackDataset(
        container, address.path, key, shape, layout, description, limits, how, labels, classes
    )


def _is_stack(shape: Sequence[int], kind: np.dtype) -> bool:
    return len(shape) in (3, 4) and kind.kind in "buif" and 0 not in shape


def _layout(shape: Sequence[int]) -> str:
    """Where the channels of (images, a, b, c) are: first only where the last axis cannot be channels."""
    first = len(shape) == 4 and shape[3] > _MANY_CHANNELS and shape[1] <= _MANY_CHANNELS
    return "CHW" if first or (len(shape) == 4 and shape[1] < shape[3] <= _MANY_CHANNELS) else "HWC"


def _only_stack(path: Path, arrays: Mapping[str, Any]) -> str:
    """The array of images, if there is exactly one."""
    found = {name: tuple(arrays[name].shape) for name in arrays}
    stacks = [name for name in found if _is_stack(found[name], np.dtype(arrays[name].dtype))]
    if len(stacks) == 1:
        return stacks[0]
    listed = ", ".join(f"{name} {shape}" for name, shape in sorted(found.items())[:12]) or "nothing"
    cure = (
        f"name one: {path}:{stacks[0]}" if stacks else "images have shape (images, height, width[, channels])"
    )
    raise DataError(f"{path} holds {len(stacks)} arrays that could be images ({listed}); {cure}")


def _label_names(key: str) -> list[str]:
    """What the labels of an array may be called, the most particular name first."""
    folder, slash, base = key.rpartition("/")
    paired = [base.replace(ours, theirs) for ours, theirs in _PAIRS if ours in base]
    names = [*paired, *(f"{base}_{name}" for name in _LABEL_NAMES[:2]), *_LABEL_NAMES]
    return [folder + slash + name for name in names]


def _labels(arrays: Mapping[str, Any], key: str, count: int) -> tuple[Labels | None, Classes]:
    """The labels beside an array: whole numbers or text, one for each image."""
    for name in _label_names(key):
        if name == key or name not in arrays:
            continue
        array = arrays[name]
        if tuple(array.shape) in ((count,), (count, 1)):
            values = np.asarray(array[:]).reshape(-1).tolist()
            texts = [v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v) for v in values]
            return encode_labels(texts)
    return None, ()
