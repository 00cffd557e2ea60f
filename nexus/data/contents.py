"""What the images of a data set are, as a digest: equal digests, equal pixels, wherever they lie.

Every image is read once for it. What that gave is remembered beside the state of the files (size, times,
inode), so that the next time costs one look at each file instead of its bytes, and any change makes a new
digest. As git does it: files that changed within the last two seconds may change again unnoticed, because
clocks of file systems are coarse, so these are not remembered.
"""

import hashlib
import os
import time
from contextlib import suppress
from pathlib import Path

from nexus.data.datasets.base import ImageDataset
from nexus.data.datasets.cache import write_at_once
from nexus.data.parallel import Progress, all_cores, in_order
from nexus.errors import ImageError

_VERSION = 1
_SETTLED = 2 * 10**9  # nanoseconds


def content_digest(
    dataset: ImageDataset, memory: Path | None = None, progress: Progress | None = None
) -> str:
    """32 hexadecimal digits for all images in their order; names and labels do not count.

    `memory` is a folder where digests are kept from one time to the next.
    """
    state = files_state(dataset)
    place = None if memory is None or state is None else memory / state
    if place is not None:
        with suppress(OSError):
            if len(known := place.read_text()) == 32:
                os.utime(place)
                return known
    digest = hashlib.blake2b(f"{_VERSION} {dataset.limits}".encode(), digest_size=16)
    for part in in_order(lambda i: _image(dataset, i), range(len(dataset)), all_cores(), progress):
        digest.update(part)
    found = digest.hexdigest()
    if place is not None and files_state(dataset) == state:
        with suppress(OSError):
            write_at_once(place, lambda file: file.write(found.encode()))
    return found


def files_state(dataset: ImageDataset) -> str | None:
    """A digest of the state of all files that the images are read from.

    None where some image has no file of its own, or a file is too new for its times to be trusted.
    """
    digest = hashlib.blake2b(f"{_VERSION} {dataset.description} {dataset.limits}".encode(), digest_size=16)
    seen: str | None = None
    newest = 0
    for i in range(len(dataset)):
        path = dataset.file(i)
        if path is None:
            return None
        digest.update(f"{dataset.name(i)}\0".encode("utf-8", "surrogateescape"))
        if path == seen:
            continue
        seen = path
        try:
            status = os.stat(path)
        except OSError as error:
            digest.update(f"{path} {error.errno}\n".encode("utf-8", "surrogateescape"))
            continue
        times = status.st_mtime_ns, status.st_ctime_ns
        newest = max(newest, *times)
        digest.update(f"{path} {status.st_size} {times} {status.st_ino}\n".encode("utf-8", "surrogateescape"))
    return None if newest > time.time_ns() - _SETTLED else digest.hexdigest()


def _image(dataset: ImageDataset, i: int) -> bytes:
    try:
        return hashlib.blake2b(dataset.stored(i), digest_size=16).digest()
    except ImageError as error:
        reason = error.reason.encode("utf-8", "replace")
        return hashlib.blake2b(reason, digest_size=16, salt=b"fault").digest()
