"""Monocular depth with a frozen backbone: how far away is what a patch shows?

linear     256 depths to choose from, one linear map on the patch and CLS of the last layer
linear4    the same on four layers
dpt        a convolutional head on four layers (DPT)
"""

import logging
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nexus.data.dense import open_depth
from nexus.errors import DataError, ImageError
from nexus.evals.context import EvalContext
from nexus.evals.dense.depth_config import DepthConfig
from nexus.evals.dense.depth_learning import DepthPlan, DepthPredictor, counted, depth_at, learn_depth
from nexus.evals.dense.depth_metrics import METRICS, depth_metrics
from nexus.evals.dense.depth_pictures import draw_depth
from nexus.evals.dense.depth_scene import DepthScene, depth_scene
from nexus.evals.dense.views import readable
from nexus.evals.task import Task, TaskResult, mean_score, over_seeds

log = logging.getLogger(__name__)

MOST_KEPT = 60
"""Test images whose predictions are kept for pictures."""
BLIND = ("median depth everywhere", "median depth of each place")

Metrics = dict[str, float]


@dataclass
class Tested:
    """What was measured, in the order of `names`; per head one list for each seed."""

    rows: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    unmeasured: list[str] = field(default_factory=list)
    metrics: dict[str, list[list[Metrics]]] = field(default_factory=dict)
    blind: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in BLIND})
    kept: dict[str, dict[int, Float[Tensor, "height width"]]] = field(default_factory=dict)


def run(context: EvalContext, config: DepthConfig) -> TaskResult:
    """RMSE of the first head on the test images; one part for each of the others."""
    source = open_depth(context.data, scale=config.scale, limit=context.limit)
    known = config.max_depth or source.layout.max_depth
    scene = depth_scene(source.train, known, context.view.workers)
    plan = DepthPlan.of(context, config, source, scene)
    names: list[str] = list(dict.fromkeys(config.heads))
    predictors = {name: learn_depth(context, plan, name) for name in names}
    tested = _test(context, plan, predictors, scene)
    results = {
        name: over_seeds([_result(name, seed, tested, plan, one) for seed in range(len(one.heads))])
        for name, one in predictors.items()
    }
    headline, *others = results.items()
    return replace(headline[1], parts=dict(others))


def _test(
    context: EvalContext, plan: DepthPlan, predictors: dict[str, DepthPredictor], scene: DepthScene
) -> Tested:
    """Every head on every test image, each image read once."""
    found = Tested(
        metrics={name: [[] for _ in one.heads] for name, one in predictors.items()},
        kept={name: {} for name in predictors},
    )
    test = plan.source.test
    for row, sample in readable(test, context.view.workers):
        if isinstance(sample, ImageError):
            found.unreadable.append(test.name(row))
            continue
        truth = torch.from_numpy(sample.truth)
        pixels = counted(plan, truth)
        if not bool(pixels.any()):
            found.unmeasured.append(sample.name)
            continue
        for name, one in predictors.items():
            metres = depth_at(context, plan, sample, one.heads, one.layers)
            for kept, predicted in zip(found.metrics[name], metres, strict=True):
                kept.append(depth_metrics(predicted[pixels], truth[pixels]))
            if len(found.names) < MOST_KEPT:
                found.kept[name][len(found.names)] = metres[0].half()
        guesses = (torch.full_like(truth, scene.median), scene.guess(*truth.shape))
        for name, guess in zip(BLIND, guesses, strict=True):
            found.blind[name].append(depth_metrics(guess[pixels], truth[pixels])["RMSE"])
        found.rows.append(row)
        found.names.append(sample.name)
        if context.progress is not None:
            context.progress(row + 1, len(test))
    if not found.names:
        raise DataError(
            f"{test.description}: no test image can be read and has a measured depth between "
            f"{plan.config.min_depth:g} and"
            f" {plan.max_depth:g} m in the scored part ({plan.eval_crop}); check the unit (depth.scale) and "
            "the limits"
        )
    if found.unmeasured:
        log.warning("%d test images have no measured depth and are left out", len(found.unmeasured))
    return found


def _result(name: str, seed: int, tested: Tested, plan: DepthPlan, predictor: DepthPredictor) -> TaskResult:
    each = tested.metrics[name][seed]
    means = {metric: sum(one[metric] for one in each) / len(each) for metric in METRICS}
    blind = {way: sum(errors) / len(errors) for way, errors in tested.blind.items()}
    best = min(blind, key=lambda way: blind[way])
    rmse = torch.tensor([one["RMSE"] for one in each], dtype=torch.float64)
    details: dict[str, Any] = {
        **means,
        "blind": blind,
        "train_samples": len(plan.source.train),
        "head": name,
        "resolution": plan.resolution,
        "crop": list(plan.crop),
        "max_depth": plan.max_depth,
        "eval_crop": plan.eval_crop,
        "unmeasured": tested.unmeasured,
        "assumed": list(plan.source.assumed),
        **predictor.details,
    }
    return TaskResult(
        metric="RMSE",
        value=means["RMSE"],
        names=tuple(tested.names),
        score=mean_score(rmse),
        higher_is_better=False,
        unit="m",
        chance=blind[best],
        chance_means=f"the {best}, without looking",
        split=plan.source.sentence,
        unreadable=tuple(tested.unreadable),
        details=details,
        pictures=partial(
            draw_depth, name, tested.kept[name], tested.rows, rmse, plan.source.test, plan.max_depth
        ),
    )


TASK = Task("depth", "how far away each pixel is, from patch tokens", DepthConfig, run)
