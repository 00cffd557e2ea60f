"""Every head on every test image, each image read once."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from nexus.errors import DataError
from nexus.evals.context import EvalContext
from nexus.evals.dense.blind import Scene, blind_scores
from nexus.evals.dense.confusion import Counts
from nexus.evals.dense.label_pictures import draw_labels
from nexus.evals.dense.segmentation_learning import LabelPlan, Predictor, judged_labels, predicted_labels
from nexus.evals.dense.testing import Tested, judge_predictions
from nexus.evals.task import TaskResult, over_seeds

MOST_KEPT = 100
"""Test images whose predictions are kept for pictures."""


AVERAGE = "average scene"

LabelTest = Tested[Int[Tensor, "classes classes"]]


def test_images(
    context: EvalContext, plan: LabelPlan, predictors: Mapping[str, Predictor], scene: Scene
) -> LabelTest:
    """Predict and count. Raises `DataError` where no test image can be read or has a label."""
    test = plan.source.test
    found = judge_predictions(
        context,
        test,
        {name: partial(predicted_labels, context, plan, one) for name, one in predictors.items()},
        partial(judged_labels, plan),
        guesses={AVERAGE: scene.guess},
        kept=MOST_KEPT,
        kept_as=torch.int16,
    )
    if not found.names or not sum(int(matrix.sum()) for matrix in found.blind[AVERAGE]):
        raise DataError(
            f"{test.description}: no test image can be read and has a pixel with a label, so nothing can be "
            "scored; check the files, and which numbers are ignored (segmentation.ignore)"
        )
    return found


def results_of(
    tested: LabelTest, plan: LabelPlan, predictors: Mapping[str, Predictor], scene: Scene
) -> dict[str, TaskResult]:
    """One result for each head."""
    return {
        name: over_seeds([_result(name, seed, tested, plan, one, scene) for seed in range(len(one.heads))])
        for name, one in predictors.items()
    }


def _result(
    name: str, seed: int, tested: LabelTest, plan: LabelPlan, predictor: Predictor, scene: Scene
) -> TaskResult:
    counts = Counts.of(tested.judged[name][seed])
    blind = blind_scores(scene, counts, Counts.of(tested.blind[AVERAGE]))
    best = max(blind, key=lambda way: blind[way])
    value = counts.miou()
    classes = plan.source.train.classes
    details: dict[str, Any] = {
        "mIoU": value,
        "pixel_accuracy": counts.accuracy(),
        "IoU": dict(zip(classes, counts.ious(), strict=True)),
        "blind": blind,
        "confusion": counts.matrix.tolist() if len(classes) <= 50 else None,
        "train_samples": len(plan.source.train),
        "classes": len(classes),
        "head": name,
        "crop": plan.crop,
        "resolution": plan.resolution,
        "assumed": list(plan.source.assumed),
        **predictor.details,
    }
    return TaskResult(
        metric="mIoU",
        value=value,
        names=tuple(tested.names),
        score=counts.miou,
        chance=blind[best],
        chance_means=f"the {best}, without looking",
        split=plan.source.sentence,
        unreadable=tuple(tested.unreadable),
        details=details,
        pictures=partial(draw_labels, name, tested.kept[name], tested.rows, plan.source.test, counts),
    )
