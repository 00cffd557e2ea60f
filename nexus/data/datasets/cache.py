"""Files that can be made again: where they are kept, how they appear at once, how they stay few."""

import hashlib
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from io import BufferedWriter
from pathlib import Path

from nexus.errors import DataError

DEFAULT_GIGABYTES = 50.0


def cache_folder() -> Path:
    """Where derived files are kept: `$NEXUS_CACHE`, else `~/.cache/nexus`."""
    chosen = os.environ.get("NEXUS_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "nexus"


def cache_limit() -> int:
    """Bytes that downloads may occupy in the cache: `$NEXUS_CACHE_GB` gigabytes, else 50."""
    text = os.environ.get("NEXUS_CACHE_GB", "")
    try:
        gigabytes = float(text) if text.strip() else DEFAULT_GIGABYTES
    except ValueError:
        raise DataError(f"NEXUS_CACHE_GB={text!r} is not a number; write gigabytes, such as 50") from None
    return int(gigabytes * 1e9)


def digest(*parts: object) -> str:
    """A file name for whatever `parts` say: 24 hexadecimal digits."""
    text = "\0".join(map(str, parts))
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:24]


def write_at_once(path: Path, write: Callable[[BufferedWriter], object]) -> None:
    """Create `path` with what `write` puts into the file; nobody ever sees half of it. `OSError` passes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
    try:
        with open(handle, "wb") as file:
            write(file)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def keep_below(folder: Path, limit: int, spare: Path | None = None) -> None:
    """Delete the files below `folder` that were used longest ago until `limit` bytes are left.

    The time of a file's last use is its modification time (`touch` sets it). `spare` stays.
    """
    found: list[tuple[float, int, str]] = []
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                status = os.stat(os.path.join(place, name))
                found.append((status.st_mtime, status.st_size, os.path.join(place, name)))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= limit:
            return
        if path != str(spare):
            with suppress(OSError):
                os.unlink(path)
                total -= size


def touch(path: Path) -> None:
    """Note that a file of the cache is in use."""
    with suppress(OSError):
        os.utime(path)
