"""k-NN of the teacher while training, where there are labels: the number to watch instead of the loss."""

import json
from pathlib import Path

from nexus import checkpoint
from nexus.data.datasets import ImageDataset
from nexus.evals.knn import evaluate_knn
from nexus.evals.splits import labelled_splits, split_labelled
from nexus.features import extract
from nexus.log import logger
from nexus.models.ssl import DINOv2
from nexus.training.config import TrainConfig


class OnlineKNN:
    """Evaluates the teacher's CLS features on a fixed subset and writes `evals/step_NNNNNNN.json`."""

    def __init__(self, config: TrainConfig, dataset: ImageDataset, folder: Path) -> None:
        self.every = config.online_eval.every
        self.folder = folder
        self.config = config
        if not self.every:
            return
        limit = config.online_eval.max_images
        if config.online_eval.data:
            self.train, self.test, _ = labelled_splits(config.online_eval.data, limit=limit)
        else:
            self.train, self.test, _ = split_labelled(dataset, limit=limit)

    def due(self, step: int) -> bool:
        """Whether this step ends with an evaluation."""
        return bool(self.every) and (step % self.every == 0 or step == self.config.schedule.steps)

    def run(self, model: DINOv2, step: int) -> None:
        """Evaluate, write the result, say the headline."""
        size = self.config.crops.global_size
        backbone = model.teacher_backbone
        train, test = (extract(backbone, part, size=size) for part in (self.train, self.test))
        result = evaluate_knn(train, test)
        checkpoint.write_atomic(
            self.folder / f"step_{step:07d}.json", json.dumps({"step": step, "knn": result}, indent=1)
        )
        logger.info("step %d  k-NN %.1f %% (chance %.1f %%)", step, *_percent(result))


def _percent(result: dict) -> tuple[float, float]:
    return 100 * result["top1"], 100 * result["chance"]
