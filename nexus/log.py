"""Rank-aware logging: the main process speaks on standard error and into the run folder's `log.txt`."""

import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from nexus.distributed import is_main

logger = logging.getLogger("nexus")


def set_up(level: int = logging.INFO) -> None:
    """Send messages of the main process to standard error, bare; call once per program."""
    logger.setLevel(level if is_main() else logging.ERROR)
    logger.propagate = False
    if not any(type(handler) is _Console for handler in logger.handlers):
        handler = _Console(sys.stderr)
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)


class _Console(logging.StreamHandler):
    """Standard error as it is at the moment of writing, so that progress bars and tests can redirect it."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


@contextmanager
def copied_to(path: Path, earlier: Iterable[logging.LogRecord] = ()) -> Iterator[None]:
    """Within the block every message goes to `path` too, with the time, also where nobody called `set_up`.

    What was said before `path` could be written, and `remembered`, goes there first.
    """
    handler = logging.FileHandler(path, mode="a", encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    with _listening(handler):
        if is_main():
            for record in earlier:
                handler.handle(record)
        yield


@contextmanager
def remembered() -> Iterator[list[logging.LogRecord]]:
    """A list that fills with the messages of the block, for a `copied_to` later."""
    handler = _Memory()
    with _listening(handler):
        yield handler.records


class _Memory(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@contextmanager
def _listening(handler: logging.Handler) -> Iterator[None]:
    """Within the block the handler hears the main process, information and worse."""
    level = logger.level
    if is_main():
        logger.setLevel(level or logging.INFO)
        logger.addHandler(handler)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)
        handler.close()
