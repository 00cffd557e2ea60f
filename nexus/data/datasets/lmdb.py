"""Encoded images in an LMDB: each value is the content of an image file, each key its name."""

import os
import threading
from pathlib import Path
from typing import Any

from nexus.data.datasets.address import Address
from nexus.data.datasets.base import ImageDataset
from nexus.data.datasets.extras import optional
from nexus.data.datasets.folder import describe
from nexus.data.datasets.labels import Classes, Labels, folder_labels
from nexus.data.datasets.names import Names, extension, is_hidden, is_image_name
from nexus.data.datasets.source import Source, whole
from nexus.data.images import ImageLimits, image_header
from nexus.errors import DataError, ImageError

_MAGIC = b"\xde\xc0\xef\xbe"  # 0xBEEFC0DE, little-endian, at byte 16 of the first page
_SNIFFED = 256

_OPEN: dict[str, tuple[int, Any]] = {}
"""Open environments with the number of their file: LMDB does not let one process open a path twice."""

_LOCK = threading.Lock()


def _close_inherited() -> None:
    """After a fork: the parent's environments cannot be used here, and would be in the way."""
    global _LOCK
    _LOCK = threading.Lock()
    for _, environment in _OPEN.values():
        environment.close()
    _OPEN.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_inherited)


def is_lmdb(path: Path) -> bool:
    """Whether a path is an LMDB: a folder with `data.mdb`, or such a file itself."""
    file = path / "data.mdb" if path.is_dir() else path
    try:
        with open(file, "rb") as stream:
            return stream.read(20)[16:] == _MAGIC
    except OSError:
        return False


class LmdbDataset(ImageDataset):
    """Values of an LMDB in the order of their keys."""

    def __init__(
        self,
        path: Path,
        keys: list[str],
        description: str,
        limits: ImageLimits,
        labels: Labels | None,
        classes: Classes,
    ) -> None:
        super().__init__(description, limits, labels, classes)
        self.path = str(path.resolve())
        self.names = Names(keys)

    def __len__(self) -> int:
        return len(self.names)

    def name(self, i: int) -> str:
        """The key."""
        return self.names[i]

    def read(self, i: int) -> bytes:
        """The value, or `ImageError`."""
        name = self.names[i]
        try:
            with _environment(self.path).begin() as transaction:
                value = transaction.get(name.encode("utf-8", "surrogateescape"))
        except DataError:
            raise
        except Exception as error:  # lmdb.Error and its many children, OSError
            raise ImageError(name, f"its LMDB: {error}") from error
        if value is None:
            raise ImageError(name, "its key is gone from the LMDB")
        return bytes(value)


def _environment(path: str, fresh: bool = False) -> Any:
    """This process's environment for a path; a `fresh` one if the file was replaced since it was opened."""
    with _LOCK:
        inode, environment = _OPEN.get(path, (0, None))
        if environment is not None and fresh and os.stat(path).st_ino != inode:
            environment.close()
            environment = None
        if environment is None:
            lmdb = optional("lmdb", "lmdb", "reading LMDB")
            folder = os.path.isdir(path)
            environment = lmdb.open(path, subdir=folder, readonly=True, lock=False, readahead=False)
            _OPEN[path] = os.stat(path).st_ino, environment
        return environment


def lmdb_source(address: Address) -> Source:
    """An LMDB folder or file."""
    address.only()
    return whole(address.text, lambda limits: _open(address.path, limits))


def _open(path: Path, limits: ImageLimits) -> LmdbDataset:
    try:
        with _environment(str(path.resolve()), fresh=True).begin() as transaction:
            keys = [
                key.decode("utf-8", "surrogateescape") for key in transaction.cursor().iternext(values=False)
            ]
            images = _images(keys, transaction)
    except DataError:
        raise
    except Exception as error:  # lmdb.Error, OSError
        raise DataError(f"{path} is not a readable LMDB: {error}") from None
    if not images:
        raise DataError(
            f"no images in the LMDB {path}, which has {len(keys):,} keys, the first are "
            f"{', '.join(keys[:3]) or 'none'}; "
            "values must be the content of image files (JPEG, PNG, ...)"
        )
    labels, classes = folder_labels(images)
    description = describe(f"LMDB {path}", len(images), labels, len(keys) - len(images))
    return LmdbDataset(path, images, description, limits, labels, classes)


def _images(keys: list[str], transaction: Any) -> list[str]:
    """The keys that name images: by their ending, or, without endings, by a look at the first values."""
    named = [key for key in keys if is_image_name(key) and not is_hidden(key)]
    if named:
        return named
    plain = [key for key in keys if not extension(key) and not key.startswith("__") and key != "num-samples"]
    looks = [
        (key, _is_image(transaction.get(key.encode("utf-8", "surrogateescape")))) for key in plain[:_SNIFFED]
    ]
    wanted = {_stem(key) for key, image in looks if image}
    others = {_stem(key) for key, image in looks if not image} - wanted
    return [key for key in plain if _stem(key) not in others] if wanted else []


def _stem(key: str) -> str:
    """`image-` of `image-000000012`: keys that differ in digits only are of one kind."""
    return key.rstrip("0123456789abcdefABCDEF")


def _is_image(value: bytes | None) -> bool:
    try:
        image_header(bytes(value or b""))
    except ImageError as error:
        return "data.limits" in error.reason
    return True
