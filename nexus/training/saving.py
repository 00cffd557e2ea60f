"""Saving a run: the two backbones that people use, then the checkpoint that makes it official."""

from collections.abc import Callable

from nexus.data.datasets import ImageDataset
from nexus.errors import RunError
from nexus.log import logger
from nexus.training.config import TrainConfig
from nexus.training.run import RunFolder
from nexus.training.state import TrainState
from nexus.weights import save_backbone


class Saver:
    """Writes the state of a run into its folder; survives a full disk.

    The checkpoint comes last: a kill before it means that the steps since the one before are made again,
    backbones included; a kill after it finds everything in place.
    """

    def __init__(
        self, config: TrainConfig, dataset: ImageDataset, folder: RunFolder, state: TrainState
    ) -> None:
        self.config = config
        self.dataset = dataset
        self.folder = folder
        self.state = state
        self.saved_step = state.step

    def due(self) -> bool:
        """Whether the state's step ends with a checkpoint."""
        return self.state.step == self._steps or self.state.step % self.config.checkpoint.every == 0

    @property
    def _steps(self) -> int:
        return self.config.schedule.steps

    def save(self) -> bool:
        """Save what is not saved yet; returns whether all is. Raises `RunError` at the last step only."""
        if self.saved_step == self.state.step:
            return True
        errors = [error for part in (self._backbones, self._checkpoint) if (error := _attempt(part))]
        for error in errors:
            if self.state.step >= self._steps:
                raise error
            logger.error("%s Training goes on; it is tried again at the next checkpoint.", error)
        if not errors:
            self.saved_step = self.state.step
        return not errors

    def _checkpoint(self) -> None:
        self.state.save(self.folder, self.config.checkpoint.keep, images=len(self.dataset))

    def _backbones(self) -> None:
        model = self.state.model
        provenance = {
            "step": self.state.step,
            "steps": self._steps,
            "data": self.dataset.description,
            "images": len(self.dataset),
            "seed": self.config.seed,
        }
        mean, std = self.config.data.normalization
        files = {"model.safetensors": model.teacher_backbone, "student.safetensors": model.student_backbone}
        for file_name, network in files.items():
            save_backbone(
                network,
                self.folder.path,
                file_name=file_name,
                provenance=provenance,
                mean=mean,
                std=std,
                look=self.config.data.look,
            )


def _attempt(part: Callable[[], None]) -> RunError | None:
    """The error of a write that failed, if it did."""
    try:
        part()
    except RunError as error:
        return error
    return None
