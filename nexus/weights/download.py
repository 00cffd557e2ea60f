"""A file from an address: resumed after a cut, verified, and under its name only when it is whole.

::

    FILE.part, FILE.part.json     on the way; the next attempt goes on from there
    FILE.origin.json              address, size, sha256 and date; written just before
    FILE                          appears by a rename, after everything is on the disk
    FILE.lock                     held while one process downloads; the others wait and then find the file
"""

import contextlib
import datetime
import errno
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

from nexus.checkpoint import sync_folder, write_atomic
from nexus.errors import WeightsError
from nexus.weights.progress import DownloadProgress
from nexus.weights.transfer import Broken, attempt

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True)
class Patience:
    """How long to insist."""

    timeout: float = 30.0
    """Seconds without a byte."""
    failures: int = 5
    """Failures in a row, none of which brought the file on by a MiB."""
    pause: float = 1.0
    """Seconds before the second attempt; doubled before each further one."""


PATIENCE = Patience()
_PROGRESS = 1 << 20


def download(
    url: str,
    target: Path,
    *,
    sha256: str | None,
    check: Callable[[Path], None],
    patience: Patience = PATIENCE,
) -> None:
    """Bring the file at `url` (http, https or file) to `target`, unless another process just did.

    `sha256` is what the sum must be, where it is known; `check` may refuse the whole file before it gets
    its name. Raises `WeightsError` for everything that network, server or disk may do.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _part_of(target) as part:
            if target.is_file():
                return
            with DownloadProgress(target.name) as progress:
                persist(url, lambda: attempt(url, part, patience.timeout, progress.report), part, patience)
            found = _verified(url, part, sha256, check)
            _record(url, target, part, found, published=sha256 is not None)
            part.replace(target)
            part.with_name(f"{part.name}.json").unlink(missing_ok=True)
            sync_folder(target.parent)
    except OSError as error:
        raise WeightsError(_disk(target, error)) from None


def persist(url: str, action: Callable[[], T], part: Path | None, patience: Patience) -> T:
    """The result of `action`, tried again while that helps."""
    best, failures = _size(part), 0
    while True:
        try:
            return action()
        except Broken as error:
            size = _size(part)
            failures = 1 if size >= best + _PROGRESS else failures + 1
            best = max(best, size)
            if failures >= patience.failures:
                kept = "; what came is kept, and the next attempt goes on from there" if size else ""
                raise WeightsError(
                    f"{url}: {error}, {failures} times in a row{kept}. Check the network, or set "
                    "NEXUS_HUB_URL to another address"
                ) from None
            wait = max(error.pause, min(patience.pause * 2 ** (failures - 1), 30.0))
            log.info("%s: %s; trying again in %.0f s", url, error, wait)
            time.sleep(wait)


def sha256_of(path: Path) -> str:
    """The sha256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_origin(path: Path) -> dict[str, str | int | bool] | None:
    """What is known about a downloaded file: `url`, `sha256`, `size`, `date`, `published`; else `None`."""
    try:
        values = json.loads(_origin(path).read_text(encoding="utf-8"))
        return values if isinstance(values["sha256"], str) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def refuse_changed(path: Path) -> None:
    """Raise `WeightsError` if a downloaded file is not what was downloaded; once per process and file."""
    origin = read_origin(path)
    if origin is None:
        return
    status = path.stat()
    if _sum_once(path, status.st_size, status.st_mtime_ns) != origin["sha256"]:
        raise WeightsError(
            f"{path} is not what was downloaded on {origin.get('date')}: its sha256 has changed. Remove the "
            "file, and it is downloaded again"
        )


@cache
def _sum_once(path: Path, size: int, modified: int) -> str:
    return sha256_of(path)


def _origin(target: Path) -> Path:
    return target.with_name(f"{target.name}.origin.json")


def _size(part: Path | None) -> int:
    return part.stat().st_size if part is not None and part.exists() else 0


def _verified(url: str, part: Path, wanted: str | None, check: Callable[[Path], None]) -> str:
    """The sha256 of a whole file; a wrong one is removed."""
    try:
        found = sha256_of(part)
        if wanted is not None and found != wanted:
            raise WeightsError(
                f"{url}: the file has sha256 {found}, but {wanted} is published for it. It was removed; try "
                "again, or set NEXUS_HUB_URL to an address that you trust"
            )
        check(part)
    except WeightsError:
        part.unlink(missing_ok=True)
        raise
    return found


def _record(url: str, target: Path, part: Path, found: str, *, published: bool) -> None:
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    size = part.stat().st_size
    origin = {"url": url, "sha256": found, "size": size, "date": now, "published": published}
    write_atomic(_origin(target), json.dumps(origin, indent=2) + "\n")


@contextmanager
def _part_of(target: Path) -> Iterator[Path]:
    """`FILE.part` for one process at a time; where there are no locks, a part for this process alone."""
    with contextlib.ExitStack() as stack:
        try:
            import fcntl

            lock = stack.enter_context(target.with_name(f"{target.name}.lock").open("w"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                log.info("another process is downloading %s; waiting for it", target.name)
                fcntl.flock(lock, fcntl.LOCK_EX)
        except (ImportError, OSError) as error:
            if getattr(error, "errno", None) in (errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EDQUOT):
                raise
            part = target.with_name(f"{target.name}.{os.getpid()}.part")
            stack.callback(part.unlink, missing_ok=True)
        else:
            part = target.with_name(f"{target.name}.part")
        yield part


def _disk(target: Path, error: OSError) -> str:
    """What the disk refused."""
    free = ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        with contextlib.suppress(OSError):
            free = f" ({shutil.disk_usage(target.parent).free / 1e6:,.0f} MB are free)"
    return (
        f"{target.name} cannot be written to {target.parent}: {error.strerror or error}{free}. Free space or "
        "mend the permissions, or set NEXUS_CACHE to another folder; what came so far is kept"
    )
