"""The progress of a run: a bar with rate and time left on a terminal, plain lines elsewhere."""

import math
import sys
import time
from contextlib import suppress
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from nexus.distributed import is_main
from nexus.log import logger
from nexus.training.metrics import sentence


class TrainProgress:
    """Shows each step on a terminal, each logged step elsewhere."""

    def __init__(self, start: int, steps: int) -> None:
        self.steps = steps
        self._started, self._start = time.monotonic(), start
        self._bar: Progress | None = None
        if sys.stderr.isatty() and is_main():
            self._bar = Progress(
                TextColumn("training"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task("train", total=steps, completed=start, note="")
            self._bar.start()

    def advance(self, step: int) -> None:
        """One more step is done."""
        if self._bar:
            self._bar.update(self._task, completed=step)

    def report(self, record: dict[str, Any], unreadable: int = 0) -> None:
        """Show a logged step, and how many images could not be used so far."""
        skipped = f"  {unreadable:,} unreadable" if unreadable else ""
        if self._bar:
            loss, rate = record.get("loss", math.nan), record["images_per_second"]
            note = f"loss {loss:.3f}  {rate:.1f} images/s  wait {record['data_wait']:.0%}{skipped}"
            self._bar.update(self._task, note=note)
        else:
            left = self._time_left(record["step"])
            logger.info("%s%s  %s left", sentence(record, self.steps), skipped, left)

    def _time_left(self, step: int) -> str:
        done = step - self._start
        seconds = (time.monotonic() - self._started) / max(done, 1) * (self.steps - step)
        minutes, seconds = divmod(round(seconds), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02d}:{seconds:02d}"

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._bar:
            with suppress(OSError):  # a terminal that was closed takes no last word
                self._bar.stop()
