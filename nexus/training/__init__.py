"""Self-supervised pretraining."""

from nexus.training.config import TrainConfig
from nexus.training.launch import train
from nexus.training.loop import RunResult

__all__ = ["RunResult", "TrainConfig", "train"]
