"""A backbone on disk: `*.safetensors` with official keys, and a `config.json` that describes it."""

import contextlib
import datetime
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from nexus import __version__, checkpoint
from nexus.data.picture import RGB, Look
from nexus.errors import RunError
from nexus.models.vision import VisionTransformer
from nexus.weights.soundness import tensors_sha256

FORMAT_VERSION = 1
LICENCE = "not stated; nexus claims no rights in weights that are trained with it"


def save_backbone(
    model: VisionTransformer,
    folder: Path,
    *,
    file_name: str = "model.safetensors",
    provenance: Mapping[str, Any],
    mean: Sequence[float],
    std: Sequence[float],
    look: Look = RGB,
) -> None:
    """Write `folder/file_name` and `folder/config.json`; each is either the old or the new one, never half.

    ::

        {"format": "nexus", "format_version": 1,
         "architecture": every field of ViTConfig,
         "normalization": {"mean": [...], "std": [...]},            of the channels, in 0..1
         "pixels": {"channels": "rgb" or "native",                  see nexus.data.picture
                    "value_range": [low, high] or null},            what became 0 and 1
         "licence": provenance["licence"], or a sentence,
         "provenance": {"nexus": version, "date": UTC, **provenance}}

    The same JSON is in the metadata of the tensor file, so that the file alone is enough, beside a sha256 of
    it and the tensors, which is compared when the file is read. Stochastic depth
    is a setting of training and is written as 0. Raises `RunError` when the disk refuses.
    """
    config = describe(model, provenance, mean, std, look)
    target = folder / file_name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        metadata = {"format": "nexus", "version": str(FORMAT_VERSION), "config": json.dumps(config)}
        write_tensors(model.state_dict(), target, metadata)
        checkpoint.write_atomic(folder / "config.json", json.dumps(config, indent=2) + "\n")
        checkpoint.sync_folder(folder)
    except OSError as error:
        raise RunError(
            f"the weights could not be written to {target}: {error.strerror or error}. Free space or mend "
            "the permissions; what was there before is intact"
        ) from error


def describe(
    model: VisionTransformer,
    provenance: Mapping[str, Any],
    mean: Sequence[float],
    std: Sequence[float],
    look: Look = RGB,
) -> dict[str, Any]:
    """The contents of `config.json`."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    facts = {"nexus": __version__, "date": now, **provenance}
    licence = facts.pop("licence", LICENCE)
    return {
        "format": "nexus",
        "format_version": FORMAT_VERSION,
        "architecture": {**model.config.model_dump(mode="json"), "drop_path_rate": 0.0},
        "normalization": {"mean": list(mean), "std": list(std)},
        "pixels": {
            "channels": look.channels,
            "value_range": None if look.value_range is None else list(look.value_range),
        },
        "licence": licence,
        "provenance": facts,
    }


def write_tensors(tensors: Mapping[str, Tensor], target: Path, metadata: Mapping[str, str]) -> None:
    """A `.safetensors` file that is either the old or the new one; an `OSError` where the disk refuses."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    plain = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    if metadata.get("format") == "nexus":
        metadata = {**metadata, "sha256": tensors_sha256(plain, metadata["config"])}
    writing = target.with_name(f".{target.name}.writing")
    try:
        writing.touch()
        readers = writing.stat().st_mode
        save_file(plain, writing, metadata=dict(metadata))
        writing.chmod(readers)  # safetensors shuts out everybody but the owner; other files here do not
        with writing.open("rb+") as file:
            os.fsync(file.fileno())
        writing.replace(target)
    except SafetensorError as error:
        raise OSError(str(error)) from error
    finally:
        with contextlib.suppress(OSError):
            writing.unlink(missing_ok=True)
