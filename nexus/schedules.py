"""Values that change with the training step: learning rate, weight decay, momentum, temperature.

A schedule is a frozen description; `at(step)` is a pure function, so nothing has to be saved to resume.
The shape is that of the official DINOv2 code: a linear warm-up whose last point is `base` itself, then a
cosine from `base` to `final`, then `final` for ever.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Linear warm-up from `start` to `base`, then a cosine from `base` to `final`.

    Steps count from 0. With `W = warmup` and `n = total - warmup`:

    * `step < W`: `linspace(start, base, W)`, both ends included, so `base` is reached at index `W - 1`;
    * then `final + (base - final) * (1 + cos(pi * i / n)) / 2` for `i = 0 .. n - 1`;
    * `step >= total`: `final` exactly.
    """

    base: float
    final: float
    total: int
    warmup: int = 0
    start: float = 0.0

    def at(self, step: int) -> float:
        """The value at `step`."""
        if step >= self.total:
            return self.final
        if step < self.warmup:
            return _linspace(self.start, self.base, self.warmup, step)
        phase = math.pi * (step - self.warmup) / (self.total - self.warmup)
        return self.final + 0.5 * (self.base - self.final) * (1 + math.cos(phase))


def _linspace(start: float, stop: float, count: int, index: int) -> float:
    if count == 1:
        return start
    return start + (stop - start) * index / (count - 1)


def cosine(base: float, final: float, total: int) -> Schedule:
    """A cosine from `base` to `final` over `total` steps, without warm-up."""
    return Schedule(base=base, final=final, total=total)


def linear_then_constant(start: float, base: float, warmup: int, total: int) -> Schedule:
    """Linear from `start` to `base` over `warmup` steps, then `base` (the teacher temperature)."""
    return Schedule(base=base, final=base, total=total, warmup=min(warmup, total), start=start)
