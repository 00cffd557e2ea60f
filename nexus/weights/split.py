"""Folders as Hugging Face writes them: one weight file, or several parts and an index."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nexus.errors import WeightsError
from nexus.weights.layouts import huggingface
from nexus.weights.read import RawFile, read_config, read_raw

INDEX = ".index.json"
"""How the name of a file ends that lists the parts of a split model."""

_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


def huggingface_file(folder: Path) -> Path | None:
    """The weights of a folder of Hugging Face; `None` for any other folder, or one without weights.

    Raises `WeightsError` for a model that is no DINO.
    """
    config = read_config(folder / "config.json") or {}
    found = next((folder / name for name in _FILES if (folder / name).is_file()), None)
    if "model_type" in config and found is None:
        raise WeightsError(
            f"{folder} is a Hugging Face folder (model_type {config['model_type']!r}) without weights: "
            f"there is none of {', '.join(_FILES)}; download it again"
        )
    return found if "model_type" in config or "architecture" in config else None


def read_split(index: Path) -> RawFile:
    """All tensors of a split model, given its index; every part must hold what the index promises."""
    values = read_config(index)
    if values is None:
        raise WeightsError(f"{index} is no index of a split model; check the path")
    places = _places(index, values)
    tensors: dict[str, Any] = {}
    pickled = False
    for name in sorted(set(places.values())):
        part = read_raw(index.with_name(name), part=True)
        if not isinstance(part.content, dict):
            raise WeightsError(f"{part.path} holds no tensors; download it again")
        pickled = pickled or part.pickled
        promised = {key for key, place in places.items() if place == name}
        if lacking := sorted(promised - part.content.keys()):
            raise WeightsError(
                f"{part.path} lacks {lacking[0]}, which {index.name} promises; download it again"
            )
        if unlisted := sorted(part.content.keys() - promised):
            raise WeightsError(
                f"{index} does not list {unlisted[0]} of {name}: it is damaged; download it again"
            )
        tensors |= part.content
    return RawFile(index, tensors, None, pickled)


def _places(index: Path, values: Any) -> dict[str, str]:
    """Which tensor lies in which file beside the index."""
    places = values.get("weight_map")
    if not isinstance(places, dict) or not places:
        raise WeightsError(f"{index} is no index of a split model: it has no weight_map; download it again")
    for place in places.values():
        if not isinstance(place, str) or Path(place).name != place:
            raise WeightsError(f"{index} names {place!r}, which is no file beside it; download it again")
    return places


@dataclass(frozen=True)
class Foreign:
    """What the files beside somebody else's weights say that the tensors do not."""

    num_heads: int | None = None
    described: Mapping[str, Any] = field(default_factory=dict)
    """Of the form of our own `config.json`: `normalization`, if it is stated."""


def read_foreign(path: Path) -> Foreign:
    """The `config.json` and `preprocessor_config.json` of Hugging Face beside a weight file.

    Raises `WeightsError` where they state something that nexus would compute differently.
    """
    settings = read_config(path.with_name("config.json")) or {}
    if settings.get("model_type") not in huggingface.MODEL_TYPES:
        return Foreign()
    if reason := huggingface.foreign_settings(settings):
        raise WeightsError(f"{path} cannot be used: in its config.json {reason}")
    processor = read_config(path.with_name("preprocessor_config.json")) or {}
    normalization = huggingface.normalization(processor)
    return Foreign(huggingface.heads(settings), {"normalization": normalization} if normalization else {})
