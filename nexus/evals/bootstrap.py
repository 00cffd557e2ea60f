"""How much a number would differ with other test images: seeded resamples of them.

Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13: percentile intervals.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nexus.evals.task import RESAMPLES, Score

CONFIDENCE = 0.95


def resampled(count: int, resamples: int, seed: int) -> Iterator[Int[Tensor, " picked"]]:
    """Rows of `count` test images drawn with replacement, the same ones for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(resamples):
        yield torch.randint(count, (count,), generator=generator)


def bootstrap_scores(
    score: Score, count: int, resamples: int = RESAMPLES, seed: int = 0
) -> Float[Tensor, " resamples"]:
    """The score on each resample, in float64."""
    found = [score(rows) for rows in resampled(count, resamples, seed)]
    return torch.tensor(found, dtype=torch.float64)


def percentile_interval(scores: Float[Tensor, " resamples"]) -> list[float]:
    """The 95 % interval. Resamples without a score (NaN: none of the images counts) are left out."""
    scores = scores[~scores.isnan()]
    if not len(scores):
        return [float("nan"), float("nan")]
    tail = (1 - CONFIDENCE) / 2
    low, high = scores.quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64))
    return [float(low), float(high)]
