"""The course of a run: its logged numbers as series over steps, whoever wrote them.

The keys are those of our `metrics.jsonl` (docs/health.md); `nexus.health.logs` renames what other tools
write. Beside them stand the derived ones:

| key          | what                                                                                      |
|--------------|-------------------------------------------------------------------------------------------|
| `dino`       | DINO loss over its value at uniform output: 1 is ln K                                     |
| `ibot`       | the same of iBOT                                                                          |
| `gap`        | ln K - teacher entropy, in nats: 0 where every target is uniform                          |
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

Record = Mapping[str, Any]


class Course:
    """Records in order of their steps, and what is known of the run beside them.

    `total` is the number of steps that the run will have, if known. `settings` holds settings by dotted key,
    as far as known; `tool` is who wrote the log.
    """

    def __init__(
        self,
        records: Iterable[Record] = (),
        *,
        total: int | None = None,
        settings: Mapping[str, Any] | None = None,
        tool: str = "nexus",
    ) -> None:
        self.total = total
        self.settings = dict(settings or {})
        self.tool = tool
        self._series: dict[str, list[tuple[int, float]]] = {}
        self.step = 0
        self.lines = 0
        for record in records:
            self.add(record)

    def add(self, record: Record) -> None:
        """Take in the next record."""
        self.step = max(self.step, int(record["step"]))
        self.lines += 1
        for key, value in {**record, **_derived(record)}.items():
            if isinstance(value, int | float) and key != "step":
                self._series.setdefault(key, []).append((self.step, float(value)))

    def note(self, step: int, key: str, value: float) -> None:
        """Take in one value from elsewhere; steps ascend."""
        self._series.setdefault(key, []).append((step, value))

    def __contains__(self, key: str) -> bool:
        return key in self._series

    def keys(self) -> list[str]:
        """Every key that has a value somewhere."""
        return list(self._series)

    def of(self, key: str) -> list[tuple[int, float]]:
        """Steps and finite values of a key."""
        return [pair for pair in self._series.get(key, []) if math.isfinite(pair[1])]

    def last(self, key: str) -> float | None:
        """The newest finite value."""
        return next((value for _, value in reversed(self._series.get(key, [])) if math.isfinite(value)), None)

    def first(self, key: str) -> float | None:
        """The oldest finite value."""
        return next((value for _, value in self._series.get(key, []) if math.isfinite(value)), None)

    def broken(self, key: str) -> int:
        """How many of the newest values are NaN or infinite."""
        values = [value for _, value in self._series.get(key, [])]
        return next((i for i, value in enumerate(reversed(values)) if math.isfinite(value)), len(values))

    def lasting(self, key: str, holds: Callable[[float], bool]) -> int:
        """For how many steps up to now every finite value of `key` has held; 0 if the newest does not."""
        begin = end = None
        for step, value in reversed(self._series.get(key, [])):
            if not math.isfinite(value):
                continue
            if not holds(value):
                break
            begin, end = step, end or step
        return 0 if begin is None or end is None else end - begin + 1

    @property
    def length(self) -> int:
        """The steps that the run will have, as far as is known: at least those it has."""
        return max(self.total or 0, self.step, 1)

    @property
    def progress(self) -> float:
        """Share of the run that is over, in 0..1; 1 where the length is not known."""
        return self.step / self.length

    def setting(self, key: str, default: Any = None) -> Any:
        """A setting by its dotted key."""
        return self.settings.get(key, default)


def flat(settings: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of a tree of settings by its dotted key."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _derived(record: Record) -> dict[str, float]:
    """Losses as shares of their value at uniform output, and the entropy below it."""
    found = {}
    for name, parts in (("dino", ("dino_global", "dino_local")), ("ibot", ("ibot",))):
        known = [part for part in parts if _both(record, part)]
        uniform = sum(record[f"uniform/{part}"] for part in known)
        if uniform > 0:
            found[name] = sum(record[f"loss/{part}"] for part in known) / uniform
    if _number(record.get("teacher/entropy")) and _number(record.get("uniform/entropy")):
        found["gap"] = record["uniform/entropy"] - record["teacher/entropy"]
    return found


def _both(record: Record, part: str) -> bool:
    return _number(record.get(f"loss/{part}")) and _number(record.get(f"uniform/{part}"))


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
