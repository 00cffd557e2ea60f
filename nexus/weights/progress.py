"""How far a download is: a bar with rate and time left on a terminal, a line every ten seconds elsewhere."""

import logging
import sys
import time
from contextlib import suppress
from typing import Any

log = logging.getLogger(__name__)

_EVERY = 10.0


class DownloadProgress:
    """Shows one file on its way."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._bar: Any = None
        self._first: tuple[float, int] | None = None
        self._said = 0.0

    def __enter__(self) -> "DownloadProgress":
        """Begin; beside another bar only lines are shown."""
        if sys.stderr.isatty():
            self._bar = _bar(self.name)
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the terminal as it was."""
        if self._bar:
            with suppress(OSError):
                self._bar.stop()

    def report(self, done: int, total: int | None) -> None:
        """Show that `done` bytes of `total` are there."""
        now = time.monotonic()
        if self._bar:
            self._bar.update(self._bar.task_ids[0], completed=done, total=total)
        if self._first is None or done < self._first[1]:
            self._first, self._said = (now, done), now
        elif not self._bar and now - self._said >= _EVERY:
            self._said = now
            log.info("%s", self._sentence(done, total, now))

    def _sentence(self, done: int, total: int | None, now: float) -> str:
        assert self._first is not None
        since, start = self._first
        rate = max((done - start) / max(now - since, 1e-9), 1e-9)
        text = f"{self.name}: {done / 1e6:,.0f} MB"
        if total is None:
            return f"{text}, {rate / 1e6:.1f} MB/s"
        left = round((total - done) / rate)
        return (
            f"{text} of {total / 1e6:,.0f} MB, {rate / 1e6:.1f} MB/s, "
            f"{left // 3600}:{left // 60 % 60:02d}:{left % 60:02d} left"
        )


def _bar(name: str) -> Any:
    """A running bar, or `None` where another one already holds the terminal."""
    from rich.console import Console
    from rich.errors import LiveError
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = TextColumn(name), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    bar.add_task(name, total=None)
    try:
        bar.start()
    except LiveError:
        return None
    return bar
