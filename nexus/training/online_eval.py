"""k-NN of the teacher while training, where there are labels: the number to watch instead of the loss."""

import json
from pathlib import Path

import numpy as np

from nexus import checkpoint
from nexus.data.datasets import ImageDataset
from nexus.distributed import is_main, on_each, rank, world_size
from nexus.errors import NexusError
from nexus.evals.knn import evaluate_knn
from nexus.evals.splits import labelled_splits, split_labelled
from nexus.features import Features, extract, joined_features
from nexus.log import logger
from nexus.models.ssl import DINOv2
from nexus.models.vision import VisionTransformer
from nexus.training.config import TrainConfig
from nexus.training.parallel import whole_backbone


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
        """Evaluate, write the result, say the headline. A failure is reported; training goes on."""
        backbone = whole_backbone(model.teacher_backbone)
        try:
            train, test = (self._features(backbone, part) for part in (self.train, self.test))
            if is_main():
                result = evaluate_knn(train, test)
                text = json.dumps({"step": step, "knn": result}, indent=1)
                checkpoint.write_atomic(self.folder / f"step_{step:07d}.json", text)
                logger.info("step %d  k-NN %.1f %% (chance %.1f %%)", step, *_percent(result))
        except (NexusError, OSError) as error:
            logger.error("step %d  k-NN failed: %s. Training goes on.", step, error)

    def _features(self, backbone: VisionTransformer, images: ImageDataset) -> Features:
        """The features of all images, of which each process looks at a part."""
        mine = np.array_split(np.arange(len(images)), world_size())[rank()]
        size = self.config.crops.global_size
        parts = on_each(lambda: extract(backbone, images.subset(mine), size=size) if len(mine) else None)
        return joined_features([part for part in parts if part is not None])


def _percent(result: dict) -> tuple[float, float]:
    return 100 * result["top1"], 100 * result["chance"]
