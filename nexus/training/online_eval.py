"""What the teacher's features are worth, while it trains: the tasks of `nexus eval` on a fixed subset."""

import time
from pathlib import Path

import numpy as np

from nexus.data.datasets import ImageDataset
from nexus.distributed import is_main, on_each, rank, world_size
from nexus.errors import NexusError
from nexus.evals.context import EvalContext, Spec
from nexus.evals.registry import task_configs, task_named
from nexus.evals.results import entry
from nexus.evals.splits import labelled_splits, split_labelled
from nexus.features import Features, View, eval_mode, extract, joined_features, place_on
from nexus.figures import quantity
from nexus.log import logger
from nexus.models.ssl import DINOv2
from nexus.models.vision import VisionTransformer
from nexus.records import write_record
from nexus.training.config import TrainConfig
from nexus.training.parallel import whole_backbone

_LONG_SECONDS, _LONG_SHARE = 10.0, 0.2


class OnlineEvaluation:
    """Evaluates the teacher and writes `evals/step_NNNNNNN.json`.

    Features of labelled images are computed by all processes, each its part; the rest by the main one.
    """

    def __init__(self, config: TrainConfig, dataset: ImageDataset, folder: Path) -> None:
        self.online = config.online_eval
        self.every = self.online.every
        self.folder = folder
        self.config = config
        self._ended = time.monotonic()
        self._said = False
        if not self.every:
            return
        self.tasks = task_configs(self.online.tasks, self.online.settings)
        self.data: Spec = self.online.data or config.data.source
        self.halves = None
        if any(task_named(name).on_labelled for name in self.tasks):
            limit = self.online.max_images
            if self.online.data:
                self.halves = labelled_splits(self.online.data, limit=limit)
            else:
                self.halves = split_labelled(dataset, limit=limit)

    def due(self, step: int) -> bool:
        """Whether this step ends with an evaluation."""
        return bool(self.every) and (step % self.every == 0 or step == self.config.schedule.steps)

    def run(self, model: DINOv2, step: int) -> None:
        """Evaluate, write the result, say the headlines. A failure is reported; training goes on."""
        began = time.monotonic()
        backbone = whole_backbone(model.teacher_backbone)
        what = ", ".join(map(_label, self.tasks))
        try:
            context = self._context(backbone)
            if is_main():
                self._evaluate(context, step)
        except (NexusError, OSError) as error:
            logger.error("step %d  %s failed: %s. Training goes on.", step, what, error)
        self._say_if_long(time.monotonic() - began)

    def _context(self, backbone: VisionTransformer) -> EvalContext:
        """Every process must call it: each computes its part of the features."""
        context = EvalContext(
            backbone=backbone,
            data=self.data,
            view=View(size=self.config.crops.global_size),
            device=place_on(backbone, None),
            limit=self.online.max_images,
            layers=max(task_named(name).layers(config) for name, config in self.tasks.items()),
        )
        if self.halves is None:
            return context
        train, test, _ = self.halves
        return context.prepared(self.halves, *(self._features(context, part) for part in (train, test)))

    def _features(self, context: EvalContext, images: ImageDataset) -> Features:
        """The features of all images, of which each process looks at a part."""
        mine = np.array_split(np.arange(len(images)), world_size())[rank()]

        def look() -> Features | None:
            if not len(mine):
                return None
            return extract(context.backbone, images.subset(mine), context.view, layers=context.layers)

        return joined_features([part for part in on_each(look) if part is not None])

    def _evaluate(self, context: EvalContext, step: int) -> None:
        found = {}
        with eval_mode(context.backbone):
            for name, config in self.tasks.items():
                result = task_named(name).run(context, config)
                found[name] = entry(result)
                guess = "" if result.chance is None else f" (chance {quantity(result.chance, result.unit)})"
                logger.info(
                    "step %d  %s %s%s", step, _label(name), quantity(result.value, result.unit), guess
                )
        write_record(self.folder / f"step_{step:07d}.json", {"step": step, **found})

    def _say_if_long(self, seconds: float) -> None:
        """One line, once, where evaluating takes a large part of the time."""
        now = time.monotonic()
        share = seconds / max(now - self._ended, 1e-9)
        self._ended = now
        if seconds > _LONG_SECONDS and share > _LONG_SHARE and not self._said:
            self._said = True
            logger.info(
                "evaluating took %.0f s, %.0f %% of the time since the last one: a larger online_eval.every"
                " or a smaller online_eval.max_images makes it less",
                seconds,
                100 * share,
            )


def _label(task: str) -> str:
    return "k-NN" if task == "knn" else task
