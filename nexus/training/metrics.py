"""Metrics of a run: means between two logged steps, one JSON object a line, one plain line for people."""

import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class RunningMeans:
    """Means of 0-d tensors since the last reading; they stay on their device until they are read."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, metrics: dict[str, Tensor]) -> None:
        """Take in the metrics of one step."""
        for key, value in metrics.items():
            value = value.detach().float()
            self._sums[key] = self._sums[key] + value if key in self._sums else value
            self._counts[key] = self._counts.get(key, 0) + 1

    def read(self) -> dict[str, float]:
        """The means, and start again. One transfer from the device."""
        if not self._sums:
            return {}
        keys = list(self._sums)
        table = torch.stack([self._sums[key].cpu() / self._counts[key] for key in keys])
        self._sums, self._counts = {}, {}
        return dict(zip(keys, table.tolist(), strict=True))


def append_line(path: Path, record: dict[str, Any]) -> None:
    """Add one JSON object as a line."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({key: _short(value) for key, value in record.items()}) + "\n")


def _short(value: Any) -> Any:
    return float(f"{value:.7g}") if isinstance(value, float) else value


def read_lines(path: Path) -> list[dict[str, Any]]:
    """All complete lines of a metrics file; a half-written last line is left out."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def truncate_after(path: Path, step: int) -> None:
    """Drop the lines of steps after `step`, which a resumed run is about to write again."""
    kept = [record for record in read_lines(path) if record["step"] <= step]
    path.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")


def sentence(record: dict[str, Any], steps: int) -> str:
    """One logged step for people: losses beside their value at uniform output, rate, waiting share."""
    parts = [f"step {record['step']}/{steps}", f"loss {record['loss']:.3f}"]
    for name in ("dino_global", "dino_local", "ibot"):
        if f"loss/{name}" in record:
            part = f"{name} {record[f'loss/{name}']:.3f}"
            if f"uniform/{name}" in record:
                part += f" (uniform {record[f'uniform/{name}']:.3f})"
            parts.append(part)
    if "images_per_second" in record:
        parts.append(f"{record['images_per_second']:.1f} images/s")
        parts.append(f"data wait {record['data_wait']:.0%}")
    return "  ".join(parts)


class Clock:
    """Rate and share of time spent waiting for data, between two readings."""

    def __init__(self) -> None:
        self._waiting, self._steps = 0.0, 0
        self._since = self._mark = time.monotonic()

    def wait(self) -> None:
        """From now on the step waits for data."""
        self._mark = time.monotonic()

    def work(self) -> None:
        """The data have come."""
        self._waiting += time.monotonic() - self._mark
        self._steps += 1

    def read(self, batch_size: int) -> dict[str, float]:
        """`images_per_second` and `data_wait` (0..1) since the last reading."""
        now = time.monotonic()
        elapsed = max(now - self._since, 1e-9)
        values = {
            "images_per_second": self._steps * batch_size / elapsed,
            "data_wait": self._waiting / elapsed,
        }
        self._waiting, self._steps, self._since = 0.0, 0, now
        return values
