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
import shutil
from collections.abc import Iterable
from pathlib import Path

from nexus import checkpoint
from nexus.config import Tree, read_yaml
from nexus.data.batch import Fault
from nexus.errors import RunError


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

    def create(self, *, overwrite: bool) -> None:
        """Make the folder for a new run. Only a run folder is ever removed, and only with `overwrite`."""
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"{self.path} is a file; --out names the folder of the run")
        if self.path.is_dir() and any(self.path.iterdir()):
            self._make_room(overwrite)
        try:
            self.evals.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"cannot create the run folder {self.path}: {error.strerror}") from None

    def _make_room(self, overwrite: bool) -> None:
        if not self.config.exists():
            raise RunError(
                f"{self.path} is not empty and holds no run; choose another --out, so that nothing of "
                "yours is mixed up or lost"
            )
        if not overwrite:
            raise RunError(
                f"{self.path} already holds a run ({self.progress()}). Go on with `nexus train --resume "
                f"{self.path}`, choose another --out, or start over with --overwrite."
            )
        shutil.rmtree(self.path)

    def settings(self) -> Tree:
        """The saved configuration of the run."""
        if not self.config.exists():
            raise RunError(
                f"{self.path} holds no run to resume: there is no config.yaml in it. "
                "Start one with `nexus train --data DATA --out OUT`."
            )
        return read_yaml(self.config)

    def latest(self) -> Path | None:
        """The newest complete checkpoint."""
        return checkpoint.latest(self.checkpoints)

    def progress(self) -> str:
        """How far the run is, in words."""
        steps = self.settings().get("schedule", {}).get("steps", "?")
        newest = self.latest()
        done = checkpoint.step_of(newest) if newest else 0
        return f"finished, {done} steps" if done == steps else f"step {done} of {steps}"


class FaultList:
    """Images that could not be used, in `unreadable.csv`: each once, with its reason."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names: set[str] = set()
        if path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                self.names = {row["name"] for row in csv.DictReader(file)}

    def __len__(self) -> int:
        return len(self.names)

    def add(self, faults: Iterable[Fault]) -> None:
        """Append the faults that are not listed yet."""
        new = {fault.name: fault for fault in faults if fault.name not in self.names}
        if not new:
            return
        first = not self.path.exists()
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if first:
                writer.writerow(["name", "reason"])
            writer.writerows([fault.name, fault.reason] for fault in new.values())
        self.names.update(new)
