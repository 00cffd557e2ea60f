"""Semantic segmentation with a frozen backbone: how much patch tokens know about what is where.

linear    batch norm and one linear map per patch of the last layer
ms        the same on the last four layers; tested at several scales, mirrored too
knn       labelled patches of the training images vote; nothing is trained
"""

from dataclasses import replace

from nexus.data.dense import open_labels
from nexus.evals.context import EvalContext
from nexus.evals.dense.blind import average_scene
from nexus.evals.dense.segmentation_config import SegmentationConfig
from nexus.evals.dense.segmentation_learning import LabelPlan, Predictor, learn_linear, remember
from nexus.evals.dense.segmentation_testing import results_of, test_images
from nexus.evals.task import Task, TaskResult


def run(context: EvalContext, config: SegmentationConfig) -> TaskResult:
    """mIoU of the first head on the test images; one part for each of the others."""
    source = open_labels(
        context.data,
        classes=config.classes,
        ignore=config.ignore,
        zero=config.zero,
        palette=config.palette,
        limit=context.limit,
    )
    plan = LabelPlan.of(context, config, source)
    scene = average_scene(source.train, plan.classes, context.view.workers)
    predictors: dict[str, Predictor] = {}
    for name in dict.fromkeys(config.heads):
        predictors[name] = remember(context, plan) if name == "knn" else learn_linear(context, plan, name)
    tested = test_images(context, plan, predictors, scene)
    headline, *others = results_of(tested, plan, predictors, scene).items()
    return replace(headline[1], parts=dict(others))


TASK = Task("segmentation", "which class each pixel belongs to, from patch tokens", SegmentationConfig, run)
