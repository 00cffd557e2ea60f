"""timm's vision transformers: `vit_small_patch14_dinov2`, `vit_base_patch14_reg4_dinov2` and their like.

Where timm differs from the official layout:

* There is no mask token.
* The registers are called `reg_token`.
* With registers, positions have no slot for CLS (`no_embed_class`): CLS already holds its own. The way
  into timm adds the two, which is exactly what every forward pass would do. What cannot be seen in the
  sum is kept in the description that nexus writes (`kept`), so that the way back is bit-equal.
* SwiGLU is packed as `fc1` = [gate | value] (`SwiGLUPacked`) or split in `fc1_g` and `fc1_x` (`SwiGLU`).
* The position table is always resampled with antialiasing and without an offset: like the official
  models with registers, unlike those without.
"""

import base64
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nexus.models.vision import ARCHITECTURES, ViTConfig
from nexus.weights.layouts.table import KeyTable, affine, same
from nexus.weights.layouts.translation import Resizing, Translation, with_mask_token, with_neutral


def resizing(config: ViTConfig) -> Resizing:
    """timm knows one way for all models."""
    return Resizing(0.0, True)


_CLASSIFIER = ("head.weight", "head.bias")
_OUTER = {
    **same("cls_token", "pos_embed"),
    "register_tokens": ("reg_token",),
    **affine("patch_embed.proj"),
    **affine("norm"),
}
_INNER = {
    **affine("norm1"),
    **affine("attn.qkv"),
    **affine("attn.proj"),
    **same("ls1.gamma", "ls2.gamma"),
    **affine("norm2"),
}
MLP = KeyTable(_OUTER, {**_INNER, **affine("mlp.fc1"), **affine("mlp.fc2")})
PACKED = KeyTable(_OUTER, {**_INNER, **affine("mlp.w12", "mlp.fc1"), **affine("mlp.w3", "mlp.fc2")})
SPLIT = KeyTable(
    _OUTER, {**_INNER, **affine("mlp.w12", "mlp.fc1_g", "mlp.fc1_x"), **affine("mlp.w3", "mlp.fc2")}
)


def recognises(tensors: Mapping[str, Tensor]) -> bool:
    """timm's registers, or layer scale or SwiGLU of timm's form without a mask token."""
    if "reg_token" in tensors:
        return True
    if "mask_token" in tensors or "patch_embed.proj.weight" not in tensors:
        return False
    return "blocks.0.ls1.gamma" in tensors or _table_of(tensors) is not MLP


def to_official(tensors: Mapping[str, Tensor]) -> Translation:
    """The tensors under official names; registers without a position, CLS with one."""
    dropped = tuple(key for key in _CLASSIFIER if key in tensors)
    named = _table_of(tensors).to_official({k: v for k, v in tensors.items() if k not in dropped})
    named = _with_cls_position(named)
    named, filled = with_mask_token(named)
    return Translation(named, "timm", dropped, filled, Resizing(0.0, True))


def _table_of(tensors: Mapping[str, Tensor]) -> KeyTable:
    if "blocks.0.mlp.fc1_g.weight" in tensors:
        return SPLIT
    first, second = (tensors.get(f"blocks.0.mlp.{name}.weight") for name in ("fc1", "fc2"))
    if first is not None and second is not None and first.ndim == second.ndim == 2:
        return PACKED if first.shape[0] == 2 * second.shape[1] else MLP
    return MLP


def _with_cls_position(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Positions of CLS and patches, out of a table that may have no CLS, or registers too."""
    table, registers = tensors.get("pos_embed"), tensors.get("register_tokens")
    if table is None or table.ndim != 3 or len(table) != 1:
        return tensors
    if registers is not None and (registers.ndim != 3 or registers.shape[::2] != table.shape[::2]):
        return tensors
    count = 0 if registers is None else registers.shape[1]
    if count and _is_square(table.shape[1] - 1 - count) and not _is_square(table.shape[1]):
        assert registers is not None
        placed = registers + table[:, 1 : 1 + count]
        table = torch.cat((table[:, :1], table[:, 1 + count :]), dim=1)
        return {**tensors, "register_tokens": placed, "pos_embed": table}
    if _is_square(table.shape[1]) and (count or not _is_square(table.shape[1] - 1)):
        nothing = table.new_zeros(1, 1, table.shape[2])
        return {**tensors, "pos_embed": torch.cat((nothing, table), dim=1)}
    return tensors


def _is_square(number: int) -> bool:
    return number > 0 and math.isqrt(number) ** 2 == number


# ---- the way into timm -------------------------------------------------------------------------------


def refusal(config: ViTConfig) -> str | None:
    """Why timm cannot hold such a backbone, if it cannot."""
    if config.ffn_layer == "identity":
        return "timm has no vision transformer without feed-forward layers"
    return None


def from_official(tensors: Mapping[str, Tensor], config: ViTConfig) -> dict[str, Tensor]:
    """timm's tensors; biases that timm always has are zero where the backbone has none."""
    biased = config.model_copy(update={"proj_bias": True, "ffn_bias": True})
    full = with_neutral(tensors, biased)
    del full["mask_token"]
    if config.num_register_tokens:
        full["cls_token"] = full["cls_token"] + full["pos_embed"][:, :1]
        full["pos_embed"] = full["pos_embed"][:, 1:]
    return (MLP if config.ffn_layer == "mlp" else PACKED).from_official(full)


def kept(tensors: Mapping[str, Tensor], config: ViTConfig) -> dict[str, str]:
    """The tensors that timm has no place for, as base64 of little-endian float32."""
    names = ["mask_token"]
    if config.num_register_tokens:
        names += ["cls_token", "pos_embed"]
    chosen = {name: tensors[name][:, :1] if name == "pos_embed" else tensors[name] for name in names}
    return {
        name: base64.b64encode(tensor.float().numpy().astype("<f4").tobytes()).decode()
        for name, tensor in chosen.items()
    }


def restore(tensors: dict[str, Tensor], texts: Mapping[str, Any]) -> dict[str, Tensor]:
    """Put the tensors of `kept` back where they give the same features; else leave `tensors` alone."""
    found = {name: _decoded(text) for name, text in texts.items()}
    if tensors["cls_token"].ndim != 3 or tensors["pos_embed"].ndim != 3:
        return tensors
    dim = tensors["cls_token"].shape[-1]
    if "mask_token" not in found or any(value is None or len(value) != dim for value in found.values()):
        return tensors
    result = {**tensors, "mask_token": found["mask_token"].view(1, dim)}
    if "cls_token" in found and "pos_embed" in found:
        cls, place = found["cls_token"].view(1, 1, dim), found["pos_embed"].view(1, 1, dim)
        if torch.equal(cls + place, tensors["cls_token"].float()):
            table = torch.cat((place, tensors["pos_embed"][:, 1:].float()), dim=1)
            result |= {"cls_token": cls, "pos_embed": table}
    return result


def _decoded(text: object) -> Any:
    try:
        data = bytearray(base64.b64decode(str(text), validate=True))
    except ValueError:
        return None
    return torch.frombuffer(data, dtype=torch.float32).clone() if data and len(data) % 4 == 0 else None


def create_model_arguments(config: ViTConfig) -> tuple[str, dict[str, Any]]:
    """The name and keywords with which `timm.create_model` builds an empty backbone of this shape."""
    gated, registers = config.ffn_layer != "mlp", config.num_register_tokens
    size = "giant" if gated else _size(config)
    defaults = {**ARCHITECTURES[size], "patch_size": 14, "reg_tokens": 4 * bool(registers)}
    wanted: dict[str, Any] = {
        "patch_size": config.patch_size,
        "embed_dim": config.embed_dim,
        "depth": config.depth,
        "num_heads": config.num_heads,
        "reg_tokens": registers,
    }
    extra = {key: value for key, value in wanted.items() if value != defaults[key]}
    width = _hidden(config) * (2 if gated else 1)
    if width != int(config.embed_dim * (2.66667 * 2 if gated else 4.0)):
        extra["mlp_ratio"] = _ratio(width, config.embed_dim)
    if config.in_chans != 3:
        extra["in_chans"] = config.in_chans
    if not config.init_values:
        extra["init_values"] = 0.0  # none at all; create_model ignores keywords that are None
    if not config.qkv_bias:
        extra["qkv_bias"] = False
    name = f"vit_{size}_patch14_{'reg4_' if registers else ''}dinov2"
    return name, {"num_classes": 0, "img_size": config.img_size, "dynamic_img_size": True, **extra}


def _size(config: ViTConfig) -> str:
    """The nearest size that timm has, so that few keywords are needed."""
    sizes = {ARCHITECTURES[size]["embed_dim"]: size for size in ("small", "base", "large")}
    return sizes.get(config.embed_dim, "small")


def _hidden(config: ViTConfig) -> int:
    hidden = int(config.embed_dim * config.mlp_ratio)
    return hidden if config.ffn_layer == "mlp" else (int(hidden * 2 / 3) + 7) // 8 * 8


def _ratio(width: int, dim: int) -> float:
    """A ratio whose product with `dim`, cut to a whole number, is `width`."""
    return width / dim if int(dim * (width / dim)) == width else (width + 0.5) / dim
