"""Logistic regression on frozen CLS features along a path of penalties.

As the official code does it: L2 penalty, C = 10^-6 ... 10^5 in 45 steps, un-normalised CLS, the best C on a
held-out tenth of the training images, then a last fit on all of them. The path begins with the strongest
penalty, and each fit starts from the one before. Of equal accuracies the smaller held-out loss decides.

What differs: images are cropped as for all other tasks (256/224, there 224/224), the held-out images are
drawn class by class, and a fit ends at a slope of `tolerance` instead of after 1,000 steps.
"""

import logging
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch.nn import functional as F

from nexus.config import Config
from nexus.errors import DataError
from nexus.evals.class_pictures import ClassImages
from nexus.evals.context import EvalContext
from nexus.evals.logistic import LogisticModel, LogisticProblem
from nexus.evals.metrics import classification, count_classes, labelled, rank_of_truth
from nexus.evals.mistakes import by_logits
from nexus.evals.splits import stratified
from nexus.evals.task import Task, TaskResult
from nexus.features import Features

log = logging.getLogger(__name__)

OFFICIAL_C = tuple(float(f"{10**power:.6g}") for power in torch.linspace(-6, 5, 45, dtype=torch.float64))


class LogRegConfig(Config):
    """Logistic regression."""

    c: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = OFFICIAL_C
    """Inverse strengths of the L2 penalty, as in scikit-learn; the best on held-out images is taken."""
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the training images that C is chosen on."""
    tolerance: PositiveFloat = 1e-5
    """Slope of the mean loss, in scaled coordinates, at which a fit has arrived."""
    max_passes: PositiveInt = 1000
    """Most passes over the features of one fit."""
    seed: int = 0
    """Seed of the held-out images and of the bootstrap."""


@dataclass(frozen=True)
class Point:
    """One penalty of the path."""

    c: float
    held_out_top1: float
    held_out_loss: float
    passes: int
    converged: bool


@dataclass(frozen=True)
class Chosen:
    """The best model of a path, fitted to all training images."""

    model: LogisticModel
    point: Point
    path: tuple[Point, ...]
    held_out_samples: int


def choose_penalty(train: Features, config: LogRegConfig, classes: int, device: torch.device) -> Chosen:
    """Walk the path on labelled features, and fit the best penalty once more to all of them."""
    assert train.labels is not None
    fit, held = stratified(train.labels, config.held_out, config.seed)
    if not len(held):
        raise DataError("no class has two training images, so none can be held out; label more images")
    problem = LogisticProblem(train.cls[fit], train.labels[fit], classes, device)
    points: list[Point] = []
    best, start = 0, None
    starts: list[LogisticModel] = []
    for c in sorted(config.c):
        model = problem.solve(c, start, tolerance=config.tolerance, max_evaluations=config.max_passes)
        logits = model(train.cls[held].to(device)).cpu()
        hits = rank_of_truth(logits, train.labels[held]) < 1
        loss = F.cross_entropy(logits, train.labels[held])
        points.append(Point(c, float(hits.double().mean()), float(loss), model.evaluations, model.converged))
        start = model
        if not starts or _merit(points[-1]) > _merit(points[best]):
            best, starts = len(points) - 1, [model]
    late = [f"{point.c:.2g}" for point in points if not point.converged]
    if late:
        log.info("C = %s: not at the bottom after %d passes", ", ".join(late), config.max_passes)
    whole = LogisticProblem(train.cls, train.labels, classes, device)
    final = whole.solve(
        points[best].c, starts[0], tolerance=config.tolerance, max_evaluations=config.max_passes
    )
    return Chosen(final, points[best], tuple(points), len(held))


def _merit(point: Point) -> tuple[float, float]:
    return point.held_out_top1, -point.held_out_loss


def logreg_result(
    train: Features,
    test: Features,
    config: LogRegConfig,
    device: torch.device | str = "cpu",
    images: ClassImages | None = None,
) -> TaskResult:
    """Accuracy on `test` of the model that is best on held-out training images; shares are in 0..1.

    Images without a label are left out. `details` has the chosen `c` and the whole `path`. Raises `DataError`
    where nothing can be held out or there is only one class.
    """
    device = torch.device(device)
    train, test = labelled(train, "training"), labelled(test, "test")
    assert test.labels is not None
    classes = count_classes(train, test)
    found = choose_penalty(train, config, classes, device)
    log.info("C = %.3g, chosen on %d held-out training images", found.point.c, found.held_out_samples)
    scores = torch.cat([found.model(part.to(device)).float().cpu() for part in test.cls.split(4096)])
    rank = rank_of_truth(scores, test.labels)
    details = {
        "top5": float((rank < 5).double().mean()) if classes > 5 else None,
        "c": found.point.c,
        "held_out_top1": found.point.held_out_top1,
        "held_out_samples": found.held_out_samples,
        "passes": sum(point.passes for point in found.path) + found.model.evaluations,
        "path": [vars(point) for point in found.path],
    }
    guesses = by_logits(test.names, scores, test.labels)
    return classification((rank < 1).float(), train, test, details, config.seed, guesses, images)


def run(context: EvalContext, config: LogRegConfig) -> TaskResult:
    """Logistic regression on the labelled images of a context. Nothing is random, so there is one seed."""
    train, test, split = context.labelled()
    features = context.features(train), context.features(test)
    found = logreg_result(*features, config, context.device, ClassImages(train, test))
    return replace(found, split=split)


TASK = Task("logreg", "logistic regression, the best of 45 penalties", LogRegConfig, run, on_labelled=True)
