"""Several models on the same images, and which differences between them are real.

Every model is scored on the same resamples of the test images, so that an image that is hard for all of them
does not count as a difference (the paired bootstrap; Efron and Tibshirani 1993, chapter 16). For two models::

    d    = score(A) - score(B)                  on all test images
    d*   = the same on each of 1,000 resamples
    interval                                    the middle 95 % of d*
    p    = 2 Phi(-|d| / sd(d*))                 two-sided; under "no difference" d is normal around 0

Many comparisons find differences by luck, so the p of all comparisons of one call are adjusted together by
Holm's procedure (Scandinavian Journal of Statistics 1979); models that give the same answers are left out. A
difference is called real when its adjusted p is below 0.05 and its own interval excludes zero. It is then
real for images like these. Whether another training with another seed would show it again is a question for
several trainings.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nexus.errors import RunError
from nexus.evals.bootstrap import bootstrap_scores, percentile_interval
from nexus.evals.task import TaskResult

LEVEL = 0.05


@dataclass(frozen=True)
class Difference:
    """Two models in one task."""

    task: str
    metric: str
    unit: str
    a: str
    b: str
    difference: float
    """Of the headline: `a` minus `b`."""
    interval: tuple[float, float]
    """Paired, 95 %, of this one comparison."""
    p: float
    p_adjusted: float
    """After Holm's procedure over all comparisons of the call."""
    samples: int
    better: str | None
    """The model that is really ahead; None where none is."""
    same_answers: bool
    """Whether the two scored alike on every resample: the same answer to every image."""


def differences(results: Mapping[str, Mapping[str, TaskResult]]) -> list[Difference]:
    """All pairs of models in each task, and in each part of one; `results` by model, then by task.

    Raises `RunError` where two models were not tested on the same images.
    """
    flat = {model: dict(_flat(tasks)) for model, tasks in results.items()}
    names = list(flat)
    found = []
    for task in next(iter(flat.values())):
        scores: dict[str, Tensor] = {}
        for number, a in enumerate(names):
            for b in names[number + 1 :]:
                if task in flat[a] and task in flat[b]:
                    found.append(_difference(task, a, b, flat[a][task], flat[b][task], scores))
    asked = [one for one in found if not one.same_answers]
    adjusted = iter(holm([one.p for one in asked]))
    return [one if one.same_answers else _judged(one, next(adjusted), flat[one.a][one.task]) for one in found]


def holm(p: Sequence[float]) -> list[float]:
    """Adjusted p by Holm's step-down procedure, in the same order."""
    order = sorted(range(len(p)), key=lambda i: p[i])
    adjusted, highest = [0.0] * len(p), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = highest
    return adjusted


def as_json(found: Sequence[Difference]) -> list[dict[str, Any]]:
    """Differences as JSON holds them."""
    return [{**asdict(one), "interval": list(one.interval)} for one in found]


def paired(
    a: Float[Tensor, " resamples"], b: Float[Tensor, " resamples"], difference: float
) -> tuple[tuple[float, float], float]:
    """The 95 % interval and the two-sided p of a difference, from scores on the same resamples."""
    drawn = a - b
    drawn = drawn[~drawn.isnan()]
    low, high = percentile_interval(drawn)
    spread = float(drawn.std()) if len(drawn) > 1 else math.nan
    if difference == 0:
        return (low, high), 1.0
    if spread == 0:
        return (low, high), 0.0
    return (low, high), math.erfc(abs(difference) / spread / math.sqrt(2))


def _flat(tasks: Mapping[str, TaskResult], prefix: str = "") -> Iterator[tuple[str, TaskResult]]:
    for name, result in tasks.items():
        yield prefix + name, result
        yield from _flat(result.parts, f"{prefix}{name}/")


def _difference(
    task: str, a: str, b: str, first: TaskResult, second: TaskResult, scores: dict[str, Tensor]
) -> Difference:
    if first.names != second.names:
        raise RunError(
            f"{task}: {a} and {b} were not tested on the same images ({len(first.names):,} and"
            f" {len(second.names):,}), so they cannot be compared; evaluate both with the same data and limit"
        )
    count = min(first.resamples, second.resamples)
    for name, result in ((a, first), (b, second)):
        if name not in scores or len(scores[name]) < count:
            scores[name] = bootstrap_scores(result.score, len(result.names), count, first.bootstrap_seed)
    one, two = scores[a][:count], scores[b][:count]
    difference = first.value - second.value
    interval, p = paired(one, two, difference)
    return Difference(
        task=task,
        metric=first.metric,
        unit=first.unit,
        a=a,
        b=b,
        difference=difference,
        interval=interval,
        p=p,
        p_adjusted=p,
        samples=len(first.names),
        better=None,
        same_answers=difference == 0 and bool(torch.equal(one, two)),
    )


def _judged(one: Difference, p: float, result: TaskResult) -> Difference:
    low, high = one.interval
    real = p < LEVEL and (low > 0 or high < 0)
    a_is_better = (one.difference > 0) == result.higher_is_better
    return replace(one, p_adjusted=p, better=(one.a if a_is_better else one.b) if real else None)
