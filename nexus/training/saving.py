"""Saving a run: the two backbones that people use, then the checkpoint that makes it official.

A save takes a copy of the state, which is all that training waits for; a thread writes it. The next save
waits for the one before. At the end of a run, planned or not, the last one is waited for.
"""

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch

from nexus import checkpoint
from nexus.data.datasets import ImageDataset
from nexus.distributed import is_main, on_main, side_group
from nexus.errors import RunError
from nexus.log import logger
from nexus.models.vision import build_backbone
from nexus.training.config import TrainConfig
from nexus.training.parallel import whole_tensors
from nexus.training.run import RunFolder
from nexus.training.state import Snapshot, TrainState
from nexus.weights import save_backbone

_FILES = {"model.safetensors": "model.teacher_backbone.", "student.safetensors": "model.student_backbone."}


class Saver:
    """Writes the state of a run into its folder; survives a full disk.

    The checkpoint comes last: a kill before it means that the steps since the one before are made again,
    backbones included; a kill after it finds everything in place. A context manager: leaving it waits for the
    writing, but for a Ctrl-C.
    """

    def __init__(
        self, config: TrainConfig, dataset: ImageDataset, folder: RunFolder, state: TrainState
    ) -> None:
        self.config = config
        self.dataset = dataset
        self.folder = folder
        self.state = state
        self.saved_step = state.step
        self._group = side_group(config.compute.timeout)
        self._writing: _Writing | None = None

    def __enter__(self) -> "Saver":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None or not issubclass(kind, KeyboardInterrupt):
            self._finish()

    def due(self) -> bool:
        """Whether the state's step ends with a checkpoint."""
        return self.state.step == self._steps or self.state.step % self.config.checkpoint.every == 0

    @property
    def _steps(self) -> int:
        return self.config.schedule.steps

    def begin(self) -> None:
        """Save what is not saved yet, while training goes on; at the last step it is waited for.

        A failure is reported when the next save begins. Raises `RunError` for the last step only.
        """
        self._finish()
        if self.saved_step == self.state.step:
            return
        snapshot = self.state.snapshot(images=len(self.dataset))
        backbones = {
            file: whole_tensors(snapshot.tensors, prefix, keep=is_main()) for file, prefix in _FILES.items()
        }
        self._writing = _Writing(snapshot.step, lambda: self._write(snapshot, backbones))
        if self.state.step >= self._steps:
            self._finish()

    def save(self) -> bool:
        """Save what is not saved yet, and wait; returns whether all is."""
        self.begin()
        self._finish()
        return self.saved_step == self.state.step

    def _finish(self) -> None:
        """Wait for what is being written, and take note of how that went."""
        writing, self._writing = self._writing, None
        if writing is None:
            return
        errors = writing.wait()
        for error in errors:
            if writing.step >= self._steps:
                raise error
            logger.error("%s Training goes on; it is tried again at the next checkpoint.", error)
        if not errors:
            self.saved_step = writing.step

    def _write(self, snapshot: Snapshot, backbones: dict[str, dict[str, torch.Tensor]]) -> list[RunError]:
        """Write everything; the errors of what could not be written."""

        def write_backbones() -> None:
            on_main(lambda: self._backbones(snapshot.step, backbones), self._group)

        parts = (write_backbones, lambda: self._checkpoint(snapshot))
        return [error for part in parts if (error := _attempt(part))]

    def _checkpoint(self, snapshot: Snapshot) -> None:
        keep = self.config.checkpoint.keep
        checkpoint.save(
            self.folder.checkpoints, snapshot.step, snapshot.tensors, snapshot.values, keep, self._group
        )

    def _backbones(self, step: int, backbones: dict[str, dict[str, torch.Tensor]]) -> None:
        provenance: dict[str, Any] = {
            "step": step,
            "steps": self._steps,
            "data": self.dataset.description,
            "images": len(self.dataset),
            "seed": self.config.seed,
        }
        mean, std = self.config.data.normalization
        for file, tensors in backbones.items():
            with torch.device("meta"):
                network = build_backbone(self.state.model.teacher_backbone.config)
            network.load_state_dict(tensors, assign=True)
            save_backbone(
                network,
                self.folder.path,
                file_name=file,
                provenance=provenance,
                mean=mean,
                std=std,
                look=self.config.data.look,
            )


class _Writing:
    """A save on its way, in a thread of its own that does not outlive the program."""

    def __init__(self, step: int, write: Callable[[], list[RunError]]) -> None:
        self.step = step
        self._errors: list[RunError] = []
        self._bug: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(write,), name="saving", daemon=True)
        self._thread.start()

    def _run(self, write: Callable[[], list[RunError]]) -> None:
        try:
            self._errors = write()
        except BaseException as error:
            self._bug = error

    def wait(self) -> list[RunError]:
        """What could not be written, once everything was tried."""
        self._thread.join()
        if self._bug is not None:
            raise self._bug
        return self._errors


def _attempt(part: Callable[[], None]) -> RunError | None:
    """The error of a write that failed, if it did."""
    try:
        part()
    except RunError as error:
        return error
    return None
