"""Self-supervised pretraining."""

from nexus.training.config import TrainConfig
from nexus.training.launch import train
from nexus.training.loop import RunResult
from nexus.training.planning import plan

__all__ = ["RunResult", "TrainConfig", "plan", "train"]
