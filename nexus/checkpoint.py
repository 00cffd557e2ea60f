"""Checkpoints that a kill at any moment cannot damage.

::

    checkpoints/
      step_0001000/            complete: it was renamed into place after everything was on the disk
        __0_0.distcp, .metadata   tensors, in torch's distributed checkpoint format (any world size)
        state.json                step and other plain values
      .writing-step_0002000/   unfinished; ignored, and removed at the next save
"""

import json
import os
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException

from nexus.errors import RunError

State = dict[str, Any]


def save(folder: Path, step: int, tensors: Mapping[str, Tensor], values: State, keep: int) -> Path:
    """Write `folder/step_NNNNNNN` atomically, then remove all but the newest `keep` checkpoints.

    `tensors` may be sharded (DTensor); `values` is whatever JSON holds. A full or read-only disk raises
    `RunError` and leaves earlier checkpoints as they were.
    """
    target = folder / f"step_{step:07d}"
    writing = folder / f".writing-{target.name}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_unfinished(folder)
        _write(writing, tensors, {**values, "step": step})
        if target.exists():
            shutil.rmtree(target)
        writing.rename(target)
        sync_folder(folder)
    except (OSError, RuntimeError, CheckpointException) as error:
        shutil.rmtree(writing, ignore_errors=True)
        raise RunError(
            f"the checkpoint of step {step} could not be written to {folder}: {error}. Free space or "
            "mend the permissions, then go on with `nexus train --resume`; earlier checkpoints are "
            "intact."
        ) from error
    for old in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return target


def _write(folder: Path, tensors: Mapping[str, Tensor], values: State) -> None:
    with warnings.catch_warnings():
        # torch says that it saves from a single process; that is what we want.
        warnings.filterwarnings("ignore", message=".*single process.*")
        dcp.save(dict(tensors), checkpoint_id=folder)
    state = folder / "state.json"
    with state.open("w") as file:
        json.dump(values, file)
        file.flush()
        os.fsync(file.fileno())


def load(path: Path, tensors: Mapping[str, Tensor]) -> State:
    """Fill `tensors` in place from a checkpoint folder and return its plain values."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*single process.*")
            dcp.load(dict(tensors), checkpoint_id=path)
        return json.loads((path / "state.json").read_text())
    except (OSError, RuntimeError, ValueError, CheckpointException) as error:
        raise RunError(
            f"{path} cannot be read as a checkpoint of this configuration: {error}. It may be damaged, or "
            "model, objective or optimizer settings have changed since; remove it to resume from the one before."
        ) from error


def list_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(path for path in folder.glob("step_*") if (path / "state.json").exists())


def latest(folder: Path) -> Path | None:
    """The newest complete checkpoint, if there is one."""
    found = list_checkpoints(folder)
    return found[-1] if found else None


def step_of(path: Path) -> int:
    """The step in a checkpoint folder's name."""
    return int(path.name.removeprefix("step_"))


def _remove_unfinished(folder: Path) -> None:
    for leftover in folder.glob(".writing-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Make a rename inside `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, text: str) -> None:
    """Write a small text file so that it is either the old or the new one, never half of it."""
    temporary = path.with_name(f".{path.name}.writing")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
