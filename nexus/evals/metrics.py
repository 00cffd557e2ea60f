"""What every classification reports: hits, top-k, a bootstrap interval, and what guessing would give."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nexus.errors import DataError
from nexus.features import Features

RESAMPLES = 1000
CONFIDENCE = 0.95


def rank_of_truth(
    scores: Float[Tensor, "samples classes"], labels: Int[Tensor, " samples"]
) -> Int[Tensor, " samples"]:
    """How many classes come before the true one: 0 is a top-1 hit. Of equal scores the lower class is first.

    Scores that are not finite lose against everything, so a probe that diverged has no hits.
    """
    scores = torch.where(scores.isfinite(), scores, -torch.inf)
    truth = scores.gather(1, labels[:, None])
    index = torch.arange(scores.shape[1], device=scores.device)
    before = (scores > truth) | ((scores == truth) & (index < labels[:, None]))
    rank = before.sum(dim=1)
    return torch.where(truth[:, 0].isfinite(), rank, scores.shape[1])


def bootstrap_interval(correct: Float[Tensor, " samples"], seed: int = 0) -> list[float]:
    """The 95 % percentile interval of the mean of `correct`, from 1,000 seeded resamples of the images."""
    generator = torch.Generator().manual_seed(seed)
    correct = correct.double().cpu()
    count = len(correct)
    means = [correct[torch.randint(count, (count,), generator=generator)].mean() for _ in range(RESAMPLES)]
    tail = (1 - CONFIDENCE) / 2
    low, high = torch.stack(means).quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64))
    return [float(low), float(high)]


def guessing(train_labels: Int[Tensor, " samples"], test_labels: Int[Tensor, " others"]) -> dict[str, float]:
    """`chance`: one over the number of classes; `majority`: always saying the commonest training class."""
    commonest = train_labels.bincount().argmax()
    return {
        "chance": 1.0 / len(train_labels.unique()),
        "majority": float((test_labels == commonest).double().mean()),
    }


def labelled(features: Features, what: str) -> Features:
    """The rows that have a label; `DataError` when there is none."""
    if features.labels is None:
        raise DataError(
            f"the {what} images have no labels, so nothing can be scored: put each class in a folder of its "
            "own, or name a `label` column in the list"
        )
    known = features.labels >= 0
    return features if bool(known.all()) else features.rows(known.nonzero().flatten())


def count_classes(train: Features, test: Features) -> int:
    """One more than the largest label on either side."""
    assert train.labels is not None
    assert test.labels is not None
    return int(torch.cat([train.labels, test.labels]).max()) + 1


def summary(
    correct: Float[Tensor, " samples"], train: Features, test: Features, seed: int = 0
) -> dict[str, Any]:
    """The entries that all classifications share: headline, interval, counts, guessing."""
    assert train.labels is not None
    assert test.labels is not None
    return {
        "top1": float(correct.double().mean()),
        "interval": bootstrap_interval(correct, seed),
        "samples": len(test),
        "train_samples": len(train),
        "classes": count_classes(train, test),
        **guessing(train.labels, test.labels),
    }
