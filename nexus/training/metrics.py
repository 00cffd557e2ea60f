"""Metrics of a run: means between two logged steps, one JSON object a line, one plain line for people."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nexus import checkpoint
from nexus.records import line_of


class RunningMeans:
    """Means of 0-d tensors since the last reading; they stay on their device until they are read.

    Values that are not finite are left out, so one bad step does not hide the good ones around it.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, Tensor] = {}

    def add(self, metrics: dict[str, Tensor]) -> None:
        """Take in the metrics of one step."""
        for key, value in metrics.items():
            value = value.detach().float()
            known = torch.isfinite(value)
            self._sums[key] = self._sums.get(key, 0) + torch.where(known, value, 0.0)
            self._counts[key] = self._counts.get(key, 0) + known.float()

    def read(self) -> dict[str, float]:
        """The means of everything that was finite at least once, and start again."""
        table = self.state_dict()
        self._sums, self._counts = {}, {}
        return {key: total / count for key, (total, count) in table.items() if count}

    def state_dict(self) -> dict[str, tuple[float, float]]:
        """Sum and count by name: part of a checkpoint, so that a resumed run writes the same lines."""
        return {key: (float(self._sums[key]), float(self._counts[key])) for key in self._sums}

    def load_state_dict(self, state: Mapping[str, Sequence[float]]) -> None:
        """Go on with what `state_dict` gave."""
        self._sums = {key: torch.tensor(total) for key, (total, _) in state.items()}
        self._counts = {key: torch.tensor(count) for key, (_, count) in state.items()}


def append_line(path: Path, record: dict[str, Any]) -> None:
    """Add one JSON object as a line; NaN and infinities become null."""
    checkpoint.append(path, line_of({key: _short(value) for key, value in record.items()}))


def _short(value: Any) -> Any:
    return float(f"{value:.7g}") if isinstance(value, float) else value


def read_lines(path: Path) -> list[dict[str, Any]]:
    """All sound lines of a metrics file; a line that a kill cut off is left out."""
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else ():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(record, dict) and "step" in record:
            records.append(record)
    return records


def truncate_after(path: Path, step: int) -> None:
    """Drop the lines of steps after `step`, which a resumed run is about to write again."""
    kept = [record for record in read_lines(path) if record["step"] <= step]
    checkpoint.write_atomic(path, "".join(map(line_of, kept)))


def sentence(record: dict[str, Any], steps: int) -> str:
    """One logged step for people: losses beside their value at uniform output, rate, waiting share."""
    parts = [f"step {record['step']}/{steps}", f"loss {record.get('loss', math.nan):.3f}"]
    for name in ("dino_global", "dino_local", "ibot"):
        if f"loss/{name}" in record:
            part = f"{name} {record[f'loss/{name}']:.3f}"
            if f"uniform/{name}" in record:
                part += f" (uniform {record[f'uniform/{name}']:.3f})"
            parts.append(part)
    if "images_per_second" in record:
        parts.append(f"{record['images_per_second']:.1f} images/s")
        parts.append(f"data wait {record['data_wait']:.0%}")
        parts.append(f"MFU {record['mfu']:.0%}")
    return "  ".join(parts)
