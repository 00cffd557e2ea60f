"""What a user may type for a model: a run folder, a weight file, a hub name, an architecture."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nexus import checkpoint
from nexus.errors import ConfigError, NexusError, WeightsError
from nexus.models.vision import ViTConfig, architecture
from nexus.weights.hub import is_hub_name, released_file
from nexus.weights.read import ENDINGS
from nexus.weights.split import huggingface_file

Encoder = Literal["teacher", "student"]

FILES: dict[str, str] = {"teacher": "model.safetensors", "student": "student.safetensors"}
"""Names of the backbones in a run folder."""


@dataclass(frozen=True)
class Located:
    """Where the weights are, or `path` = `None` for an architecture without any."""

    path: Path | None
    expected: ViTConfig | None
    """What the name promises: the architecture of an architecture's or hub's name."""


def locate(source: str | Path, encoder: Encoder) -> Located:
    """Find out what `source` is. What exists on disk wins over a name.

    The file of a hub name is downloaded if it is not on this machine. Raises `WeightsError` for something
    that is neither, for a download that fails or is forbidden, and for folders without weights.
    """
    if not isinstance(source, str | os.PathLike):
        raise WeightsError(f"{source!r} is no model; give a run folder, a weight file or a name")
    path = Path(source).expanduser()
    if path.is_dir():
        return Located(_in_folder(path, encoder), None)
    if path.exists():
        return Located(path, None)
    name = str(source)
    if is_hub_name(name):
        return Located(released_file(name), architecture(name))
    if isinstance(source, Path) or os.sep in name or path.suffix in ENDINGS:
        raise WeightsError(f"there is no {path}; check the path (the current folder is {Path.cwd().name}/)")
    try:
        return Located(None, architecture(name))
    except ConfigError as error:
        raise WeightsError(f"{name!r} is no file, run folder or architecture: {error}") from None


def _in_folder(folder: Path, encoder: Encoder) -> Path:
    """The backbone in a run folder, or why there is none."""
    path = folder / FILES[encoder]
    if path.is_file():
        return path
    if folder.name == "checkpoints" or folder.name.startswith("step_"):
        run = folder.parent if folder.name == "checkpoints" else folder.parent.parent
        raise WeightsError(f"{folder} is for resuming, not for inference; pass the run folder {run}")
    other = next((name for name in FILES.values() if (folder / name).is_file()), None)
    if other is not None:
        raise WeightsError(f"{folder} holds {other} but no {path.name}; choose the other encoder")
    if (folder / "config.yaml").is_file():
        raise WeightsError(_unfinished(folder, path.name))
    if (found := huggingface_file(folder)) is not None:
        return found
    files = sorted(file.name for file in folder.iterdir() if file.suffix in ENDINGS)
    hint = f"; pass one of its weight files: {', '.join(files[:4])}" if files else ""
    raise WeightsError(f"{folder} is no run folder: there is no {path.name} in it{hint}")


def _unfinished(folder: Path, file_name: str) -> str:
    """A run that has not written its backbones yet."""
    try:
        saved = checkpoint.list_checkpoints(folder / "checkpoints")
    except (OSError, NexusError):
        saved = []
    newest = f"the newest checkpoint is {saved[-1].name}" if saved else "it has not saved a checkpoint yet"
    return (
        f"the run in {folder} has no {file_name} yet: {newest}. It is written with each checkpoint "
        f"(checkpoint.every); wait for it, or go on with `nexus train --resume {folder}`"
    )
