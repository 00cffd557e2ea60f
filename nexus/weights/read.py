"""Raw contents of a weight file, by safetensors or torch's weights-only reader: nothing is ever executed."""

import argparse
import json
import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nexus.errors import WeightsError

ENDINGS = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
"""File name endings that weights have."""


@dataclass(frozen=True)
class RawFile:
    """What a weight file holds: for safetensors a flat dictionary, for a pickle whatever was saved."""

    path: Path
    content: Any
    config: Mapping[str, Any] | None
    """The description that nexus wrote into or beside the file."""
    pickled: bool


def read_raw(path: Path, *, part: bool = False) -> RawFile:
    """The contents of a weight file on the CPU, or a `WeightsError` that says what is wrong with it.

    With `part`, the file may be one of several that a model was split into.
    """
    if not part:
        _refuse_parts(path)
    head = _head(path)
    if _is_safetensors(path, head):
        tensors, metadata = _read_safetensors(path)
        return RawFile(path, tensors, _config_beside(path) or _embedded_config(metadata), pickled=False)
    if head.startswith((b"PK\x03\x04", b"\x80")):
        return RawFile(path, _read_pickle(path), _config_beside(path), pickled=True)
    raise WeightsError(f"{path} is no weight file: {_what_it_is(head)}")


def read_config(path: Path) -> Mapping[str, Any] | None:
    """A `config.json` as a mapping; `None` where there is none. Damaged JSON is a `WeightsError`."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read: {error}. Copy it again, or remove it.") from None
    return values if isinstance(values, dict) else None


def _config_beside(path: Path) -> Mapping[str, Any] | None:
    for name in (f"{path.stem}.json", "config.json"):
        values = read_config(path.with_name(name))
        if values and values.get("format") == "nexus":
            return values
    return None


def _embedded_config(metadata: Mapping[str, str]) -> Mapping[str, Any] | None:
    try:
        text = metadata["config"] if metadata.get("format") == "nexus" else metadata["nexus"]
        values = json.loads(text)
        return values if isinstance(values, dict) else None
    except (KeyError, ValueError):
        return None


def _refuse_parts(path: Path) -> None:
    """Files that hold only a part of a model, by their names."""
    if found := re.search(r"\.rank_(\d+)\.pth$", path.name):
        raise WeightsError(
            f"{path}: this is shard {found[1]} of a sharded training checkpoint, not a model; pass "
            "teacher_checkpoint.pth, which official training writes under eval/training_*/"
        )
    if found := re.search(r"-(\d{5})-of-(\d{5})\.", path.name):
        raise WeightsError(
            f"{path}: this is part {int(found[1])} of {int(found[2])} of a split model; pass the folder "
            "they lie in, or the file that ends with .index.json"
        )


def _head(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise WeightsError(f"{path} is a folder; pass the weight file in it")
        if path.exists() and not path.is_file():
            raise WeightsError(f"{path} is not a regular file")
        with path.open("rb") as file:
            return file.read(512)
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror}; check the path") from None


def _is_safetensors(path: Path, head: bytes) -> bool:
    return head[8:9] == b"{" or (path.suffix == ".safetensors" and head[:2] in (b"", b"\x00\x00"))


def _read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], Mapping[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(_damaged(path, str(error))) from None


def _read_pickle(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's remarks about pickle protocols
            # DINO (2021) and timm store the options of a training. Rebuilding a Namespace runs nothing.
            with torch.serialization.safe_globals([argparse.Namespace]):
                return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(_refused(path, str(error))) from None
    except Exception as error:  # a damaged pickle can raise anything
        text = (str(error) or type(error).__name__).split(". ", 1)[0].splitlines()[0]
        raise WeightsError(_damaged(path, text)) from None


def _refused(path: Path, message: str) -> str:
    """Why the weights-only reader refused a pickle, in our words."""
    found = re.search(r"(?:GLOBAL|[Uu]nsupported class) ([\w.]+)", message)
    if found is None:
        return _damaged(path, "its pickle cannot be understood")
    name = found[1].rstrip(".")
    return (
        f"{path} was not loaded: besides tensors it holds Python objects ({name}), and rebuilding those can "
        "run any code that its author put there. Nothing of it was executed. If you trust the file, "
        "open it in the program that wrote it and save the tensors alone as .safetensors"
    )


def _damaged(path: Path, why: str) -> str:
    return f"{path} is damaged or incomplete ({why.strip()}); copy or download it again"


def _what_it_is(head: bytes) -> str:
    if not head:
        return "it is empty; the download or copy was interrupted, repeat it"
    text = head.lstrip().lower()
    if text.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer; fetch the real file with `git lfs pull`"
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "it is a web page, probably an error message; download the file itself"
    if b"\x00" not in head:
        return "it holds text; pass a .safetensors or .pth file, a run folder or an architecture name"
    return "it is neither safetensors nor a PyTorch file; it may be damaged"
