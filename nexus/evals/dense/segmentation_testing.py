"""Every head on every test image, each image read once."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from nexus.errors import DataError, ImageError
from nexus.evals.context import EvalContext
from nexus.evals.dense.blind import Scene, blind_scores
from nexus.evals.dense.confusion import Counts, confusion
from nexus.evals.dense.label_pictures import draw_labels
from nexus.evals.dense.maps import layer_maps
from nexus.evals.dense.prediction import labels_at
from nexus.evals.dense.segmentation_learning import LabelPlan, Predictor
from nexus.evals.dense.views import readable
from nexus.evals.task import TaskResult, over_seeds

MOST_KEPT = 100
"""Test images whose predictions are kept for pictures."""


@dataclass
class Tested:
    """What was counted; per head one list of matrices for each seed, in the order of `names`."""

    rows: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    matrices: dict[str, list[list[Int[Tensor, "classes classes"]]]] = field(default_factory=dict)
    placed: list[Int[Tensor, "classes classes"]] = field(default_factory=list)
    kept: dict[str, dict[int, Int[Tensor, "height width"]]] = field(default_factory=dict)
    """Head → position in `names` → labels that the first seed predicts."""


def test_images(
    context: EvalContext, plan: LabelPlan, predictors: Mapping[str, Predictor], scene: Scene
) -> Tested:
    """Predict and count. Raises `DataError` where no test image can be read or has a label."""
    found = Tested(
        matrices={name: [[] for _ in one.heads] for name, one in predictors.items()},
        kept={name: {} for name in predictors},
    )
    test = plan.source.test
    for row, sample in readable(test, context.view.workers):
        if isinstance(sample, ImageError):
            found.unreadable.append(test.name(row))
            continue
        truth = torch.from_numpy(sample.truth)
        for name, one in predictors.items():
            labels = labels_at(
                sample.image,
                (truth.shape[0], truth.shape[1]),
                one.heads,
                partial(layer_maps, context, layers=one.layers),
                plan.resolution,
                plan.crop,
                context.view.batch_size,
                one.scales,
                one.flip,
            )
            for kept, predicted in zip(found.matrices[name], labels, strict=True):
                kept.append(confusion(truth, predicted, plan.classes))
            if len(found.names) < MOST_KEPT:
                found.kept[name][len(found.names)] = labels[0].to(torch.int16)
        found.placed.append(confusion(truth, scene.guess(*truth.shape), plan.classes))
        found.rows.append(row)
        found.names.append(sample.name)
        if context.progress is not None:
            context.progress(row + 1, len(test))
    if not found.names or not sum(int(matrix.sum()) for matrix in found.placed):
        raise DataError(
            f"{test.description}: no test image can be read and has a pixel with a label, so nothing can be "
            "scored;"
            " check the files, and which numbers are ignored (segmentation.ignore)"
        )
    return found


def results_of(
    tested: Tested, plan: LabelPlan, predictors: Mapping[str, Predictor], scene: Scene
) -> dict[str, TaskResult]:
    """One result for each head."""
    return {
        name: over_seeds([_result(name, seed, tested, plan, one, scene) for seed in range(len(one.heads))])
        for name, one in predictors.items()
    }


def _result(
    name: str, seed: int, tested: Tested, plan: LabelPlan, predictor: Predictor, scene: Scene
) -> TaskResult:
    counts = Counts.of(tested.matrices[name][seed])
    blind = blind_scores(scene, counts, Counts.of(tested.placed))
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
