"""Predictions for images that have a truth, judged one by one; each image is read once.

It serves the test as well as the choice of a learning rate on held-out training images.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import torch
from torch import Tensor

from nexus.data.dense import DenseDataset, DenseSample
from nexus.errors import ImageError
from nexus.evals.context import EvalContext
from nexus.evals.dense.views import readable

T = TypeVar("T")
"""What is counted of one image: a confusion matrix, errors."""

Predict = Callable[[DenseSample], Sequence[Tensor]]
"""A prediction at the pixels of the truth for each seed (or learning rate)."""
Guess = Callable[[int, int], Tensor]
"""A prediction for that height and width, without a look at the image."""


@dataclass
class Tested(Generic[T]):
    """What was counted, in the order of `names`."""

    rows: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    unmeasured: list[str] = field(default_factory=list)
    """Names of images whose truth has nothing to judge by."""
    judged: dict[str, list[list[T]]] = field(default_factory=dict)
    """By predictor, then one list for each of its predictions."""
    blind: dict[str, list[T]] = field(default_factory=dict)
    """The same for each guess."""
    kept: dict[str, dict[int, Tensor]] = field(default_factory=dict)
    """By predictor, then position in `names`: the first prediction, for pictures."""


def judge_predictions(
    context: EvalContext,
    data: DenseDataset,
    predictors: Mapping[str, Predict],
    judge: Callable[[Tensor, Tensor], T],
    *,
    measured: Callable[[Tensor], bool] = lambda truth: True,
    guesses: Mapping[str, Guess] | None = None,
    rows: Sequence[int] | None = None,
    kept: int = 0,
    kept_as: torch.dtype = torch.float16,
) -> Tested[T]:
    """Judge every prediction against the truth, `judge(prediction, truth)`; `rows` are some of the images.

    Images that cannot be read, or whose truth is not `measured`, are left out and named. The first `kept`
    predictions stay in memory.
    """
    guesses = guesses or {}
    found: Tested[T] = Tested(
        judged={name: [] for name in predictors},
        blind={name: [] for name in guesses},
        kept={name: {} for name in predictors},
    )
    for row, sample in readable(data, context.view.workers, rows):
        if isinstance(sample, ImageError):
            found.unreadable.append(data.name(row))
            continue
        truth = torch.from_numpy(sample.truth)
        if not measured(truth):
            found.unmeasured.append(sample.name)
            continue
        for name, predict in predictors.items():
            predictions = predict(sample)
            found.judged[name] = found.judged[name] or [[] for _ in predictions]
            for counted, prediction in zip(found.judged[name], predictions, strict=True):
                counted.append(judge(prediction, truth))
            if len(found.names) < kept:
                found.kept[name][len(found.names)] = predictions[0].to(kept_as)
        for name, guess in guesses.items():
            found.blind[name].append(judge(guess(truth.shape[0], truth.shape[1]), truth))
        found.rows.append(row)
        found.names.append(sample.name)
        if context.progress is not None and rows is None:
            context.progress(row + 1, len(data))
    return found
