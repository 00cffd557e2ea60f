"""The architecture that tensor shapes tell, for files that say nothing about themselves."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from nexus.config import build
from nexus.errors import ConfigError, WeightsError
from nexus.models.vision import ARCHITECTURES, ViTConfig

HEAD_DIM = 64
"""Width of an attention head in every released model; shapes alone do not show it."""


def infer_config(path: Path, tensors: Mapping[str, Tensor], num_heads: int | None = None) -> ViTConfig:
    """The settings of the backbone in a flat dictionary with official keys.

    `num_heads` is what somebody else's `config.json` says; without it a head is 64 wide.
    The position table is resized as in the released models: antialiased with registers, with an offset of
    0.1 without. Raises `WeightsError` where the shapes do not describe a DINOv2 backbone.
    """
    try:
        return build(ViTConfig, _fields(tensors, num_heads))
    except (KeyError, ValueError, ConfigError) as error:
        missing = f"there is no {error}" if isinstance(error, KeyError) else str(error)
        some = ", ".join(list(tensors)[:4])
        raise WeightsError(
            f"{path} does not look like a DINOv2 backbone: {missing}. Its first tensors are {some}"
        ) from None


def _fields(tensors: Mapping[str, Tensor], num_heads: int | None) -> dict[str, Any]:
    dim, chans, patch, patch_cols = _shape(tensors, "patch_embed.proj.weight", 4)
    if patch != patch_cols:
        raise ValueError(f"its patches are {patch} × {patch_cols} pixels, not square")
    if num_heads is None and dim % HEAD_DIM:
        raise ValueError(
            f"its width {dim} is no multiple of {HEAD_DIM}, so the number of heads is unknown; "
            "put the config.json of the model beside it"
        )
    registers = _shape(tensors, "register_tokens", 3)[1] if "register_tokens" in tensors else 0
    return {
        "img_size": _grid_side(_shape(tensors, "pos_embed", 3)[1]) * patch,
        "patch_size": patch,
        "in_chans": chans,
        "embed_dim": dim,
        "depth": _depth(tensors),
        "num_heads": num_heads or dim // HEAD_DIM,
        "init_values": 1e-5 if "blocks.0.ls1.gamma" in tensors else None,
        "num_register_tokens": registers,
        "interpolate_antialias": bool(registers),
        "interpolate_offset": 0.0 if registers else 0.1,
        "qkv_bias": "blocks.0.attn.qkv.bias" in tensors,
        "proj_bias": "blocks.0.attn.proj.bias" in tensors,
        **_feed_forward(tensors, dim),
    }


def _shape(tensors: Mapping[str, Tensor], key: str, axes: int) -> tuple[int, ...]:
    """The shape of a tensor, which has so many axes and is not empty."""
    shape = tuple(tensors[key].shape)
    if len(shape) != axes or 0 in shape:
        raise ValueError(f"its {key} is of shape {shape}, not of {axes} axes with something in each")
    return shape


def _grid_side(places: int) -> int:
    patches = places - 1
    side = math.isqrt(patches)
    if side < 1 or side * side != patches:
        raise ValueError(f"its position table has {patches} places, which is no square grid")
    return side


def _depth(tensors: Mapping[str, Tensor]) -> int:
    indices = {int(found[1]) for key in tensors if (found := re.match(r"blocks\.(\d+)\.", key))}
    if indices != set(range(len(indices))) or not indices:
        raise ValueError(f"its blocks are numbered {sorted(indices)[:8]}, not 0, 1, 2, ...")
    return len(indices)


def _feed_forward(tensors: Mapping[str, Tensor], dim: int) -> dict[str, Any]:
    """Kind and width. SwiGLU's width is rounded, so the ratio is one that leads to it, 4 if that does."""
    if "blocks.0.mlp.w12.weight" in tensors:
        hidden = _shape(tensors, "blocks.0.mlp.w12.weight", 2)[0] // 2
        usual = (int(4 * dim * 2 / 3) + 7) // 8 * 8
        ratio = 4.0 if hidden == usual else 1.5 * hidden / dim
        return {
            "ffn_layer": "swiglufused",
            "mlp_ratio": ratio,
            "ffn_bias": "blocks.0.mlp.w12.bias" in tensors,
        }
    if "blocks.0.mlp.fc1.weight" in tensors:
        hidden = _shape(tensors, "blocks.0.mlp.fc1.weight", 2)[0]
        ratio = hidden / dim if int(dim * (hidden / dim)) == hidden else (hidden + 0.5) / dim
        return {"ffn_layer": "mlp", "mlp_ratio": ratio, "ffn_bias": "blocks.0.mlp.fc1.bias" in tensors}
    return {"ffn_layer": "identity"}


def architecture_name(config: ViTConfig) -> str:
    """The name of an architecture, or its dimensions where it has none."""
    tail = f"_patch{config.patch_size}"
    tail += f"_reg{config.num_register_tokens}" if config.num_register_tokens else ""
    gated = config.ffn_layer.startswith("swiglu")
    for size, fields in ARCHITECTURES.items():
        same = all(getattr(config, key) == fields[key] for key in ("embed_dim", "depth", "num_heads"))
        usual = config.mlp_ratio == 4.0 and config.ffn_layer != "identity"
        always_gated = "ffn_layer" in fields
        if same and usual and (gated or not always_gated):
            return f"vit_{size}{tail}" + ("_swiglu" if gated and not always_gated else "")
    return f"vit of width {config.embed_dim}, depth {config.depth}, {config.num_heads} heads ({tail[1:]})"
