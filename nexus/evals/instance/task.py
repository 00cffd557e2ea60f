"""Detection and instance segmentation: a detector on patch features, box AP and mask AP by pycocotools.

Frozen by default: only the pyramid and the heads learn. The headline is mask AP, or box AP where the data
have boxes only. Zero-area boxes and crowds are not learned from; in the measure they are what pycocotools
makes of them. The bootstrap over test images uses fewer resamples than usual (`instance.resamples`).
"""

import logging
from dataclasses import asdict, replace
from typing import Any

from nexus.errors import DataError
from nexus.evals.context import EvalContext
from nexus.evals.instance.average_precision import AveragePrecision, Detections, average_precision
from nexus.evals.instance.config import InstanceConfig
from nexus.evals.instance.objects import Annotated
from nexus.evals.instance.opening import open_objects
from nexus.evals.instance.scale import Scale
from nexus.evals.task import Task, TaskResult, over_seeds

log = logging.getLogger(__name__)


def run(context: EvalContext, config: InstanceConfig) -> TaskResult:
    """Train and test once for each seed."""
    train, test, split = open_objects(context.data, context.limit)
    kind = "masks and boxes" if train.has_masks else "boxes only: Faster R-CNN, no mask AP"
    scale = Scale.of(config, context.device)
    log.info(
        "instance: %s; %d steps of %d images; pyramid of %d channels from %d cells a patch, %d regions%s",
        *(kind, _steps(train, config, scale), config.batch_size, scale.width, scale.finest, scale.proposals),
        " (sizes for a CPU)" if context.device.type == "cpu" else "",
    )
    seeds = context.training_seeds(config.seed)
    return over_seeds([_once(context, config, train, test, split, seed) for seed in seeds])


TASK = Task("instance", "objects: boxes and masks by Mask R-CNN", InstanceConfig, run)


def _once(
    context: EvalContext, config: InstanceConfig, train: Annotated, test: Annotated, split: str, seed: int
) -> TaskResult:
    from nexus.evals.instance.pictures import draw  # torchvision's detectors take a while to import
    from nexus.evals.instance.training import detect, train_detector

    model = train_detector(context, train, config, seed)
    answers = list(detect(context, model, test, config))
    read = [row for row, answer in enumerate(answers) if answer is not None]
    if not read:
        raise DataError(f"none of the {len(answers)} test images can be read")
    sizes = [answer[0] for answer in answers if answer is not None]
    found: list[Detections | None] = [None if answer is None else answer[1] for answer in answers]
    kept = [one for one in found if one is not None]
    masks = train.has_masks and test.has_masks
    scale = Scale.of(config, context.device)
    judged = {
        name: average_precision([test.objects[i] for i in read], kept, test.classes, sizes, kind)
        for name, kind in (("mask", "segm"), ("box", "bbox"))
        if kind == "bbox" or masks
    }
    lost = tuple(test.images.name(i) for i in range(len(answers)) if answers[i] is None)
    names = tuple(test.images.name(i) for i in read)
    shared: dict[str, Any] = {
        "train_images": len(train.objects),
        "classes": len(test.classes),
        "objects": sum(len(test.objects[i]) for i in read),
        "detections": sum(len(one.scores) for one in kept),
        "steps": _steps(train, config, scale),
        "finetune": config.finetune,
        "scale": asdict(scale),
    }
    results = [_result(name, ap, names, config, shared) for name, ap in judged.items()]
    return replace(
        results[0],
        split=split,
        unreadable=lost,
        pictures=lambda: draw(test, found, config.shown),
        parts={result.metric.split()[0]: result for result in results[1:]},
    )


def _steps(train: Annotated, config: InstanceConfig, scale: Scale) -> int:
    return scale.steps(config, sum(len(one.trained_on()) > 0 for one in train.objects))


def _result(
    name: str, ap: AveragePrecision, names: tuple[str, ...], config: InstanceConfig, shared: dict[str, Any]
) -> TaskResult:
    metric = f"{name} AP"
    value = ap.figures["AP"]
    return TaskResult(
        metric=metric,
        value=float("nan") if value is None else value,
        names=names,
        score=ap.score,
        resamples=config.resamples,
        bootstrap_seed=config.seed,
        details={metric: value, **ap.figures, "per_class": ap.per_class, **shared},
    )
