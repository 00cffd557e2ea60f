"""One process at a time, the others wait. A process that dies lets go."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger(__name__)

_PAUSE = 0.2


@contextmanager
def locked(path: Path, doing: str) -> Iterator[None]:
    """Hold the lock of the file `path`, which is made and stays; say once that another process is `doing` it.

    Threads exclude each other too. `OSError` where the system or the file system has no locks.
    """
    try:
        import fcntl
    except ImportError:
        raise OSError("this system has no file locks") from None
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        waited = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not waited:
                    log.info("waiting for another process that is %s", doing)
                waited = True
                time.sleep(_PAUSE)
        yield


def is_locked(path: Path) -> bool:
    """Whether somebody holds the lock of `path` now."""
    try:
        import fcntl

        with path.open("r") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except (ImportError, OSError):
        return True
    return False
