"""Raw contents of a weight file, by safetensors or torch's weights-only reader: nothing is ever executed."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nexus.errors import WeightsError
from nexus.weights.pickles import damaged, is_pickle, read_pickle, refuse_damaged_archive
from nexus.weights.recognition import HEAD, recognise
from nexus.weights.soundness import refuse_changed_tensors

ENDINGS = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
"""File name endings that weights have."""

_LONGEST_HEADER = 100_000_000


@dataclass(frozen=True)
class RawFile:
    """What a weight file holds: for safetensors a flat dictionary, for a pickle whatever was saved."""

    path: Path
    content: Any
    config: Mapping[str, Any] | None
    """The description that nexus wrote into or beside the file."""
    pickled: bool


def read_raw(path: Path) -> RawFile:
    """The contents of a weight file on the CPU, or a `WeightsError` that says what is wrong with it."""
    _refuse_parts(path)
    head = read_head(path)
    if is_safetensors(path, head):
        tensors, metadata = _read_safetensors(path)
        refuse_changed_tensors(path, tensors, metadata)
        return RawFile(path, tensors, _description(path, metadata), pickled=False)
    if is_pickle(head):
        return RawFile(path, read_pickle(path), _config_beside(path), pickled=True)
    raise WeightsError(_not_weights(path, head))


def check_form(path: Path) -> None:
    """Raise `WeightsError` unless a file is whole by its form: a cheap look, without reading tensors."""
    head = read_head(path)
    if is_safetensors(path, head):
        read_header(path)
    elif head.startswith(b"PK"):
        refuse_damaged_archive(path, sums=False)
    elif not is_pickle(head):
        raise WeightsError(_not_weights(path, head))


def read_config(path: Path) -> Mapping[str, Any] | None:
    """A `config.json` as a mapping; `None` where there is none. Damaged JSON is a `WeightsError`."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{path} cannot be read: {error}. Copy it again, or remove it.") from None
    return values if isinstance(values, dict) else None


# -- the description --------------------------------------------------------------------------------


def _description(path: Path, metadata: Mapping[str, str]) -> Mapping[str, Any] | None:
    """What nexus said about a file: `config.json` beside it, else the copy inside."""
    beside, inside = _config_beside(path), _embedded_config(metadata)
    if beside is None or inside is None:
        return beside or inside
    for key in ("architecture", "normalization"):
        if beside.get(key) != inside.get(key):
            raise WeightsError(
                f"{path.with_name('config.json')} has another {key} than {path.name} itself: it was edited, "
                "damaged, or belongs to another file. Remove it to go by what the file says"
            )
    return beside


def _config_beside(path: Path) -> Mapping[str, Any] | None:
    file = path.with_name("config.json")
    values = read_config(file)
    if not values or values.get("format") != "nexus":
        return None
    _refuse_normalization(file, values.get("normalization", {}))
    return values


def _refuse_normalization(path: Path, values: Any) -> None:
    """Mean and standard deviation have to be numbers that pixels can be normalised with."""
    try:
        mean, std = (list(map(float, values.get(key, [1.0]))) for key in ("mean", "std"))
        sound = all(map(math.isfinite, mean + std)) and min(std) > 0
    except (AttributeError, TypeError, ValueError):
        sound = False
    if not sound:
        raise WeightsError(
            f"{path} holds no usable normalization ({json.dumps(values)[:80]}): mean and std are lists of "
            "numbers, one a channel. Copy the file again, or remove it"
        )


def _embedded_config(metadata: Mapping[str, str]) -> Mapping[str, Any] | None:
    try:
        values = json.loads(metadata["config"]) if metadata.get("format") == "nexus" else None
    except (KeyError, ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) else None


# -- files ------------------------------------------------------------------------------------------


def _refuse_parts(path: Path) -> None:
    """Files that hold only a part of a model, by their names."""
    if found := re.search(r"\.rank_(\d+)\.pth$", path.name):
        raise WeightsError(
            f"{path}: this is shard {found[1]} of a sharded training checkpoint, not a model; pass "
            "teacher_checkpoint.pth, which official training writes under eval/training_*/"
        )
    if found := re.search(r"-(\d{5})-of-(\d{5})\.", path.name):
        raise WeightsError(
            f"{path}: this is part {int(found[1])} of {int(found[2])} of a split model; split files cannot "
            "be read yet: join the parts into one .safetensors file"
        )


def read_head(path: Path) -> bytes:
    """The first bytes of a file; `WeightsError` where there is no regular file that can be read."""
    try:
        if path.is_dir():
            raise WeightsError(f"{path} is a folder; pass the weight file in it")
        if path.exists() and not path.is_file():
            raise WeightsError(f"{path} is not a regular file")
        with path.open("rb") as file:
            return file.read(HEAD)
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror}; check the path") from None


def _not_weights(path: Path, head: bytes) -> str:
    kind, cure = recognise(head)
    return f"{path} is no weight file: it is {kind}; {cure}"


# -- safetensors ------------------------------------------------------------------------------------


def is_safetensors(path: Path, head: bytes) -> bool:
    """Whether a file begins as safetensors do: a length, then JSON."""
    return head[8:9] == b"{" or (path.suffix == ".safetensors" and head[:2] in (b"", b"\x00\x00"))


def read_header(path: Path) -> dict[str, Any]:
    """The JSON at the head of a safetensors file: tensors by name, and `__metadata__`.

    Raises `WeightsError` if it is cut off, if a name is there twice, or if the data are not as long as it
    says. Nothing is allocated for the tensors.
    """
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > min(size - 8, _LONGEST_HEADER):
                raise ValueError(f"its header of {length:,} bytes is longer than the file")
            header = json.loads(file.read(length), object_pairs_hook=_once)
        entries = [header[name] for name in header if name != "__metadata__"]
        end = max((int(entry["data_offsets"][1]) for entry in entries), default=0)
        if size != 8 + length + end:
            raise ValueError(f"its header tells of {end:,} bytes of data; there are {size - 8 - length:,}")
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise WeightsError(damaged(path, str(error) or type(error).__name__)) from None
    return header


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a name is in its header twice")
    return values


def _read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], Mapping[str, str]]:
    from safetensors import SafetensorError, safe_open

    read_header(path)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, RuntimeError, MemoryError) as error:
        raise WeightsError(damaged(path, str(error))) from None
