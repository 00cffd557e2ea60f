"""From whatever a file holds to the tensors of one backbone under official names.

First everything around the backbone goes, then its layout is recognised (`nexus.weights.layouts`).

| seen                                       | is                                | becomes             |
|--------------------------------------------|-----------------------------------|---------------------|
| `{"teacher": {...}, ...}`                  | training dump                     | the encoder's part  |
| `{"model": {...}}`, `{"state_dict": ...}`  | wrapped state dict                | its contents        |
| `{"state_dict_ema": ...}`, `{"model_ema"}` | averaged weights, for the teacher | its contents        |
| `module.x`, `_orig_mod.x`, `_fsdp_...x`    | DDP, `torch.compile`, FSDP        | `x`                 |
| `teacher.x`, `student_backbone.x`          | both networks in one dictionary   | `x` of the encoder  |
| `backbone.x` beside `dino_head.x`          | backbone and heads                | `x`; others dropped |
| `dinov2.x` beside `classifier.weight`      | Hugging Face classifier           | `x`; others dropped |

Whatever is left is compared strictly; files of other families are named, not guessed at.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nexus.errors import WeightsError
from nexus.weights.layouts import Resizing, huggingface, to_official
from nexus.weights.read import RawFile

_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}


@dataclass(frozen=True)
class BackboneTensors:
    """The tensors of one backbone under their official names."""

    tensors: dict[str, Tensor]
    dropped: tuple[str, ...]
    """Keys of heads and of the other network that were left aside."""
    layout: str
    """How the file was organised, in words."""
    filled: tuple[str, ...] = ()
    """What the file lacks and what stands there instead, one sentence each."""
    resizing: Resizing | None = None
    """How the library of this layout resizes positions, if it is not the official code."""


def backbone_tensors(raw: RawFile, encoder: str) -> BackboneTensors:
    """The backbone in a file; `encoder` chooses where there are a teacher and a student."""
    flat, layout = _unwrap(raw.path, raw.content, encoder)
    flat = _without_wrappers(raw.path, flat)
    _refuse_foreign(raw.path, flat)
    dropped: list[str] = []
    for prefix in (f"{encoder}.", f"{encoder}_backbone.", "backbone.", *huggingface.PREFIXES):
        flat, others = _select(flat, prefix)
        dropped += others
    _refuse_foreign(raw.path, flat)
    _refuse_empty(raw.path, flat)
    try:
        found = to_official(flat)
    except WeightsError as error:
        raise WeightsError(f"{raw.path}: {error}") from None
    words = ", ".join(text for text in (layout, found.layout) if text)
    return BackboneTensors(found.tensors, (*dropped, *found.dropped), words, found.filled, found.resizing)


def _unwrap(path: Path, content: Any, encoder: str) -> tuple[dict[str, Tensor], str]:
    """The innermost dictionary of tensors, and the way to it."""
    steps: list[str] = []
    averaged = ("state_dict_ema", "model_ema") if encoder == "teacher" else ()
    while isinstance(content, Mapping):
        tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
        if tensors:
            return tensors, " of ".join(reversed(steps)) or "state dict"
        names = (encoder, *averaged, "model", "state_dict")
        inner = [key for key in names if isinstance(content.get(key), Mapping)]
        if not inner:
            break
        steps.append(f"{inner[0]!r}")
        content = content[inner[0]]
    if isinstance(content, Mapping):
        found = ", ".join(map(repr, list(content)[:6])) or "nothing"
        raise WeightsError(
            f"{path} holds no weights of a {encoder}: it has {found}; pass a state dict, or a dump with "
            f"{encoder!r}, 'model' or 'state_dict'"
        )
    raise WeightsError(f"{path} holds a {type(content).__name__}, not a dictionary of tensors")


def _without_wrappers(path: Path, flat: Mapping[str, Tensor]) -> dict[str, Tensor]:
    result: dict[str, Tensor] = {}
    for key, tensor in flat.items():
        name = ".".join(part for part in key.split(".") if part not in _WRAPPERS)
        if name in result:
            raise WeightsError(f"{path} holds {name} twice, once as {key}; save one of the two models alone")
        result[name] = tensor
    return result


def _select(flat: dict[str, Tensor], prefix: str) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The tensors below `prefix` without it, and the other keys; everything where nothing is below it."""
    chosen = {key.removeprefix(prefix): tensor for key, tensor in flat.items() if key.startswith(prefix)}
    if not chosen:
        return flat, ()
    return chosen, tuple(key for key in flat if not key.startswith(prefix))


def _refuse_empty(path: Path, flat: Mapping[str, Tensor]) -> None:
    """Sparse tensors, and such as have a shape and no numbers."""
    for key, tensor in flat.items():
        if tensor.layout is not torch.strided or tensor.device.type != "cpu":
            raise WeightsError(f"{path}: {key} is sparse, or holds no numbers; save it as a plain tensor")


def _refuse_foreign(path: Path, keys: Iterable[str]) -> None:
    """A message for the files that people mistake for a DINOv2 backbone."""
    kind = foreign_kind(keys)
    if kind is not None:
        raise WeightsError(f"{path}: this is {kind}")


def foreign_kind(keys: Iterable[str]) -> str | None:
    """What a dictionary with these keys is, if it is no DINOv2 backbone but something well known."""
    keys = set(keys)
    text = "\n".join(sorted(keys))
    if "_flat_param" in text or "flat_param" in text:
        return "a shard of a sharded training checkpoint, not a model; pass teacher_checkpoint.pth"
    cannot = "; such files cannot be read. Pass a DINOv2 backbone"
    if "storage_tokens" in text or "rope_embed" in text or "rope_embeddings" in text:
        return f"a DINOv3 backbone{cannot}"
    if "embeddings.patch_embeddings.weight" in text:
        return f"a DINOv3 backbone of Hugging Face{cannot}"
    if "embeddings.patch_embeddings" in text and "embeddings.cls_token" not in text:
        return f"a Hugging Face vision transformer without CLS{cannot}"
    if "decoder_pos_embed" in text or "decoder_embed" in text:
        return f"a masked autoencoder{cannot}"
    if "last_layer.weight_v" in keys or "last_layer.weight_g" in keys:
        return "a projection head without a backbone; pass the backbone's file"
    if keys and keys <= {"weight", "bias", "linear.weight", "linear.bias"}:
        return "a linear classifier without a backbone; pass the backbone's file"
    return None
