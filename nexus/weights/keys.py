"""From anybody's key names to the official ones of a backbone.

| seen                                      | is                                    | becomes              |
|-------------------------------------------|---------------------------------------|----------------------|
| `{"teacher": {...}, ...}`                 | training dump                         | the encoder's part   |
| `{"model": {...}}`, `{"state_dict": ...}` | wrapped state dict                    | its contents         |
| `module.x`, `_orig_mod.x`, `_fsdp_...x`   | wrappers of DDP, `torch.compile`, FSDP | `x`                 |
| `teacher.x`, `student.x`                  | both networks in one dictionary       | `x` of the encoder   |
| `backbone.x` beside `dino_head.x`         | backbone and heads                    | `x`; heads dropped   |
| `blocks.{chunk}.{i}.x`                    | blocks in chunks (`block_chunks > 0`) | `blocks.{i}.x`       |

Whatever is left is compared strictly; files of other families are named, not guessed at.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from nexus.errors import WeightsError
from nexus.weights.read import RawFile

_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
_CHUNKED = re.compile(r"^blocks\.(\d+)\.(\d+)\.(?=[a-z])")


@dataclass(frozen=True)
class BackboneTensors:
    """The tensors of one backbone under their official names."""

    tensors: dict[str, Tensor]
    dropped: tuple[str, ...]
    """Keys of heads and of the other network that were left aside."""
    layout: str
    """How the file was organised, in words."""


def backbone_tensors(raw: RawFile, encoder: str) -> BackboneTensors:
    """The backbone in a file; `encoder` chooses where there are a teacher and a student."""
    flat, layout = _unwrap(raw.path, raw.content, encoder)
    flat = {_unwrapped(key): tensor for key, tensor in flat.items()}
    _refuse_foreign(raw.path, flat)
    flat, dropped = _select(flat, f"{encoder}.")
    flat, heads = _select(flat, "backbone.")
    _refuse_foreign(raw.path, flat)
    if any(_CHUNKED.match(key) for key in flat):
        layout += ", blocks in chunks"
        flat = _flatten_blocks(raw.path, flat)
    return BackboneTensors(flat, (*dropped, *heads), layout)


def _unwrap(path: Path, content: Any, encoder: str) -> tuple[dict[str, Tensor], str]:
    """The innermost dictionary of tensors, and the way to it."""
    steps: list[str] = []
    while isinstance(content, Mapping):
        tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
        if tensors:
            return tensors, " of ".join(reversed(steps)) or "state dict"
        inner = [key for key in (encoder, "model", "state_dict") if isinstance(content.get(key), Mapping)]
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


def _unwrapped(key: str) -> str:
    return ".".join(part for part in key.split(".") if part not in _WRAPPERS)


def _select(flat: dict[str, Tensor], prefix: str) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The tensors below `prefix` without it, and the other keys; everything where nothing is below it."""
    chosen = {key.removeprefix(prefix): tensor for key, tensor in flat.items() if key.startswith(prefix)}
    if not chosen:
        return flat, ()
    return chosen, tuple(key for key in flat if not key.startswith(prefix))


def _flatten_blocks(path: Path, flat: dict[str, Tensor]) -> dict[str, Tensor]:
    """Chunks keep the index of a block in the whole network, so the chunk's own number can go."""
    result: dict[str, Tensor] = {}
    for key, tensor in flat.items():
        name = _CHUNKED.sub(r"blocks.\2.", key)
        if name in result:
            raise WeightsError(
                f"{path} numbers the blocks of every chunk from 0 ({key}), so their order is not known; "
                "save it with block_chunks=0"
            )
        result[name] = tensor
    return result


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
    cannot = "; such files cannot be read yet. Pass the official DINOv2 .pth, or a file of nexus"
    if "storage_tokens" in text or "rope_embed" in text or "rope_embeddings" in text:
        return f"a DINOv3 backbone{cannot}"
    if "embeddings.patch_embeddings" in text:
        return f"a Hugging Face (transformers) vision transformer{cannot}"
    if "last_layer.weight_v" in keys or "last_layer.weight_g" in keys:
        return "a projection head without a backbone; pass the backbone's file"
    if keys and keys <= {"weight", "bias", "linear.weight", "linear.bias"}:
        return "a linear classifier without a backbone; pass the backbone's file"
    if "reg_token" in keys or ("patch_embed.proj.weight" in keys and "mask_token" not in keys):
        return f"a timm, DINO (2021) or supervised vision transformer (it has no mask_token){cannot}"
    return None
