"""The run folder: what lies where, and when it may be written.

::

    runs/a/
      config.yaml           the resolved configuration; `nexus train --config` repeats the run
      model.safetensors     the teacher's backbone, with config.json: what to use and to ship
      student.safetensors   the student's backbone
      metrics.jsonl         one JSON object per logged step
      log.txt               everything that was said
      unreadable.csv        images that were skipped, and why (only if there are any)
      checkpoints/          everything needed to resume; not for inference
      evals/                evaluations, JSON
"""

import csv
import io
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from nexus import checkpoint
from nexus.config import Tree, read_yaml
from nexus.data.batch import Fault
from nexus.distributed import is_main
from nexus.errors import ConfigError, RunError
from nexus.log import logger
from nexus.training.metrics import truncate_after
from nexus.weights.card import is_card

_SECTIONS = {"schedule", "crops", "objective"}


class RunFolder:
    """Paths inside one run folder, and its rules."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.metrics = self.path / "metrics.jsonl"
        self.log = self.path / "log.txt"
        self.unreadable = self.path / "unreadable.csv"
        self.checkpoints = self.path / "checkpoints"
        self.evals = self.path / "evals"

    # -- a new run --------------------------------------------------------------------------------

    def create(self, *, overwrite: bool) -> None:
        """Make the folder for a new run. Only files of a run are ever removed, and only with `overwrite`."""
        self.refuse(overwrite=overwrite)
        with self._writing():
            if self._occupied():
                with self.claimed():
                    self._remove_run()
            self.evals.mkdir(parents=True, exist_ok=True)

    def refuse(self, *, overwrite: bool) -> None:
        """Raise `RunError` where a new run may not be; nothing is touched."""
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"{self.path} is a file; --out names the folder of the run")
        if not self._occupied():
            return
        if not self._holds_run():
            raise RunError(
                f"{self.path} is not empty and holds no run; choose another --out, so that nothing of "
                "yours is mixed up or lost"
            )
        if not overwrite:
            raise RunError(
                f"{self.path} already holds a run ({self.progress()}). Go on with `nexus train --resume "
                f"{self.path}`, choose another --out, or start over with --overwrite."
            )

    def _occupied(self) -> bool:
        return self.path.is_dir() and any(not _is_trace(path) for path in self.path.iterdir())

    def _holds_run(self) -> bool:
        try:
            return self.config.is_file() and read_yaml(self.config).keys() >= _SECTIONS
        except ConfigError:
            return False

    def _remove_run(self) -> None:
        """Remove what a run writes, config.yaml last; other files in the folder stay."""
        for folder in (self.checkpoints, self.evals):
            shutil.rmtree(folder, ignore_errors=True)
        weights = (self.path / name for name in ("model.safetensors", "student.safetensors", "config.json"))
        if is_card(self.path / "README.md"):
            (self.path / "README.md").unlink()
        for file in (*weights, self.metrics, self.log, self.unreadable, self.config):
            file.unlink(missing_ok=True)

    def write_settings(self, text: str) -> None:
        """Save the resolved configuration."""
        with self._writing():
            checkpoint.write_atomic(self.config, text)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RunError(
                f"the run folder {self.path} cannot be written: {error.strerror or error}. Mend the "
                "permissions or free space, or choose another --out."
            ) from None

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Within the block no other process may train in this folder; a killed process holds nothing."""
        try:
            import fcntl
        except ImportError:
            yield
            return
        with self._writing():
            file = (self.path / ".lock").open("w")
        with file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunError(
                    f"another process is training in {self.path}; stop it first, or choose another --out"
                ) from None
            except OSError:
                logger.debug("no locks on the file system of %s", self.path)
            yield

    # -- an earlier run ---------------------------------------------------------------------------

    def settings(self) -> Tree:
        """The saved configuration of the run."""
        if not self.config.exists():
            raise RunError(
                f"{self.path} holds no run to resume: there is no config.yaml in it. "
                "Start one with `nexus train --data DATA --out OUT`."
            )
        return read_yaml(self.config)

    def step(self) -> int:
        """Steps done at the newest complete checkpoint; 0 without one."""
        newest = checkpoint.latest(self.checkpoints)
        return checkpoint.step_of(newest) if newest else 0

    def progress(self) -> str:
        """How far the run is, in words."""
        schedule = self.settings().get("schedule")
        steps = schedule.get("steps") if isinstance(schedule, dict) else None
        done = self.step()
        if not isinstance(steps, int):  # somebody edited it
            return f"step {done}"
        return f"finished, {done} steps" if done >= steps else f"step {done} of {steps}"

    def rewind(self, step: int) -> None:
        """Drop metrics and online evaluations of steps after `step`: they are about to be made again."""
        with self._writing():
            if self.metrics.exists():
                truncate_after(self.metrics, step)
            for result in self.evals.glob("step_*.json"):
                number = result.stem.removeprefix("step_")
                if number.isdigit() and int(number) > step:
                    result.unlink()


def _is_trace(path: Path) -> bool:
    """Whether a file is nothing but the trace of a run that was killed before it began."""
    if path.name == "evals" and path.is_dir():
        return not any(path.iterdir())
    return path.name == ".lock" or path.name.endswith(".writing")


@contextmanager
def survive_full_disk(what: str) -> Iterator[None]:
    """Within the block a write that the disk refuses is reported instead of ending the run."""
    try:
        yield
    except OSError as error:
        logger.error("%s could not be written: %s. Training goes on.", what, error.strerror or error)


class FaultList:
    """Images that could not be used, in `unreadable.csv`: each once, with its reason."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names: set[str] = set()
        if path.exists():
            with path.open(newline="", encoding="utf-8", errors="replace") as file:
                self.names = {row["name"] for row in csv.DictReader(file)}

    def __len__(self) -> int:
        return len(self.names)

    def add(self, faults: Iterable[Fault]) -> None:
        """Append the faults that are not listed yet."""
        rows = {_printable(fault.name): _printable(fault.reason) for fault in faults}
        new = [(name, reason) for name, reason in rows.items() if name not in self.names]
        if not new or not is_main():
            return
        text = io.StringIO(newline="")
        if not self.path.exists():
            csv.writer(text).writerow(["name", "reason"])
        csv.writer(text).writerows(new)
        with survive_full_disk(f"{self.path}"):
            checkpoint.append(self.path, text.getvalue())
            self.names.update(name for name, _ in new)


def _printable(text: str) -> str:
    """The text with bytes that are not UTF-8, as in some file names, written as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()
