"""Compressed tar archives, decompressed once into the user's cache, so that any image can be reached."""

import gzip
import os
import tempfile
import zlib
from io import BufferedIOBase
from pathlib import Path

from nexus.data.datasets.cache import cache_folder, digest
from nexus.errors import DataError

_CHUNK = 1 << 20


def is_gzip(path: Path) -> bool:
    """Whether the file begins as gzip does."""
    with open(path, "rb") as file:
        return file.read(2) == b"\x1f\x8b"


def plain_tar(path: Path) -> tuple[Path, str | None]:
    """A plain tar with the content of `path`, and what is wrong with the compression, if anything is.

    An uncompressed archive is returned as it is. The cache file's name holds the real path, size and time
    of the original, so a changed archive is unpacked anew; it appears by an atomic rename, so processes
    that start together do not see half of it. What comes before damage is kept.
    """
    try:
        if not is_gzip(path):
            return path, None
        status = path.stat()
    except OSError as error:
        raise DataError(f"cannot read the archive {path}: {error.strerror or error}") from None
    key = digest(path.resolve(), status.st_size, status.st_mtime_ns)
    sound = cache_folder() / "tar" / f"{key}.tar"
    damaged = sound.with_suffix(".damaged.tar")
    if sound.is_file():
        return sound, None
    if not damaged.is_file():
        try:
            if _unpack(path, sound, damaged):
                return sound, None
        except OSError as error:
            raise DataError(
                f"cannot unpack {path} into {sound.parent}: {error.strerror or error}; "
                "make room there, or set NEXUS_CACHE to another folder"
            ) from None
    return damaged, "the compressed data break off or are damaged"


def _unpack(path: Path, sound: Path, damaged: Path) -> bool:
    """Decompress; whether that went well to the end."""
    sound.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=sound.parent, suffix=".part")
    try:
        with open(handle, "wb") as out:
            complete = _copy(path, out)
        os.replace(temporary, sound if complete else damaged)
    except BaseException:
        os.unlink(temporary)
        raise
    return complete


def _copy(path: Path, out: BufferedIOBase) -> bool:
    with gzip.open(path, "rb") as source:
        while True:
            try:
                # read1 hands out what is there, so nothing before the damage is lost
                chunk = source.read1(_CHUNK)
            except (EOFError, zlib.error, gzip.BadGzipFile):
                return False
            if not chunk:
                return True
            out.write(chunk)
