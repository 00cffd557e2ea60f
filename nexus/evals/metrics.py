"""What every classification reports: hits, top-k, and what guessing would give."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nexus.errors import DataError
from nexus.evals.bootstrap import bootstrap_scores, percentile_interval
from nexus.evals.class_pictures import ClassImages, class_pictures
from nexus.evals.mistakes import Guesses
from nexus.evals.task import TaskResult, mean_score, no_pictures
from nexus.features import Features


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
    return percentile_interval(bootstrap_scores(mean_score(correct), len(correct), seed=seed))


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


def class_names(count: int, names: Sequence[str] = ()) -> tuple[str, ...]:
    """What `count` classes are called; a class without a name by its number."""
    return tuple(names[i] if i < len(names) else str(i) for i in range(count))


def classification(
    correct: Float[Tensor, " samples"],
    train: Features,
    test: Features,
    details: Mapping[str, Any],
    seed: int,
    guesses: Guesses,
    images: ClassImages | None = None,
) -> TaskResult:
    """The result of a classification: top-1 of `correct` (0 or 1 a test image), counts, guessing, `details`.

    `seed` is that of the bootstrap. `guesses` are told in the details; with `images` they are drawn, too.
    """
    assert train.labels is not None
    assert test.labels is not None
    top1 = float(correct.double().mean())
    chance = guessing(train.labels, test.labels)
    classes = count_classes(train, test)
    called = class_names(classes, images.train.classes if images else ())
    return TaskResult(
        metric="top1",
        value=top1,
        names=test.names,
        score=mean_score(correct),
        chance=chance["chance"],
        chance_means=f"one of {len(train.labels.unique()):,} classes",
        unreadable=tuple(fault.name for fault in (*train.faults, *test.faults)),
        details={
            "top1": top1,
            "train_samples": len(train),
            "classes": classes,
            "majority": chance["majority"],
            **details,
            **guesses.told(called),
        },
        pictures=no_pictures if images is None else class_pictures(guesses, called, images),
        bootstrap_seed=seed,
    )
