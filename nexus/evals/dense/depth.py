"""Monocular depth with a frozen backbone: how far away is what a patch shows?

linear     256 depths to choose from, one linear map on the patch and CLS of the last layer
linear4    the same on four layers
dpt        a convolutional head on four layers (DPT)
"""

import logging
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nexus.data.dense import DenseSample, open_depth
from nexus.errors import DataError
from nexus.evals.context import EvalContext
from nexus.evals.dense.depth_config import DepthConfig
from nexus.evals.dense.depth_learning import (
    DepthPlan,
    DepthPredictor,
    depth_at,
    errors_of,
    is_measured,
    learn_depth,
)
from nexus.evals.dense.depth_metrics import METRICS
from nexus.evals.dense.depth_pictures import draw_depth
from nexus.evals.dense.depth_scene import DepthScene, depth_scene
from nexus.evals.dense.testing import Tested, judge_predictions
from nexus.evals.task import Task, TaskResult, mean_score, over_seeds

log = logging.getLogger(__name__)

MOST_KEPT = 60
"""Test images whose predictions are kept for pictures."""
BLIND = ("median depth everywhere", "median depth of each place")

DepthTest = Tested[dict[str, float]]


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
) -> DepthTest:
    """Every head on every test image."""
    everywhere, each_place = BLIND
    test = plan.source.test
    found = judge_predictions(
        context,
        test,
        {name: partial(_predicted, context, plan, one) for name, one in predictors.items()},
        partial(errors_of, plan),
        measured=partial(is_measured, plan),
        guesses={
            everywhere: lambda height, width: torch.full((height, width), scene.median),
            each_place: scene.guess,
        },
        kept=MOST_KEPT,
    )
    if not found.names:
        raise DataError(
            f"{test.description}: no test image can be read and has a measured depth between "
            f"{plan.config.min_depth:g} and {plan.max_depth:g} m in the scored part ({plan.eval_crop}); check"
            " the unit (depth.scale) and the limits"
        )
    if found.unmeasured:
        log.warning("%d test images have no measured depth and are left out", len(found.unmeasured))
    return found


def _predicted(
    context: EvalContext, plan: DepthPlan, predictor: DepthPredictor, sample: DenseSample
) -> list[Float[Tensor, "height width"]]:
    return depth_at(context, plan, sample, predictor.heads, predictor.layers)


def _result(
    name: str, seed: int, tested: DepthTest, plan: DepthPlan, predictor: DepthPredictor
) -> TaskResult:
    each = tested.judged[name][seed]
    means = {metric: sum(one[metric] for one in each) / len(each) for metric in METRICS}
    blind = {way: sum(e["RMSE"] for e in errors) / len(errors) for way, errors in tested.blind.items()}
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
