"""The sizes of DINOv2, and the grammar of architecture names.

    vit_{tiny|small|base|large|giant}_patch{P}[_reg{R}][_swiglu]     any patch size P, R registers
    dinov2_vit{s|b|l|g}14[_reg]                                      the released models, 518 px

Sizes: Oquab et al. (arXiv 2304.07193), Table 17, and the official code; `tiny` is the DeiT size, for a
laptop. Registers: Darcet et al. (arXiv 2309.16588).
"""

import re
from collections.abc import Mapping
from typing import Any

from nexus.config import build
from nexus.errors import ConfigError, nearest
from nexus.models.vision.config import ViTConfig

ARCHITECTURES: Mapping[str, Mapping[str, Any]] = {
    "tiny": {"embed_dim": 192, "depth": 12, "num_heads": 3},
    "small": {"embed_dim": 384, "depth": 12, "num_heads": 6},
    "base": {"embed_dim": 768, "depth": 12, "num_heads": 12},
    "large": {"embed_dim": 1024, "depth": 24, "num_heads": 16},
    "giant": {"embed_dim": 1536, "depth": 40, "num_heads": 24, "ffn_layer": "swiglufused"},
}
"""Dimensions by size; a head is always 64 wide."""

HUB_SIZES = {"s": "small", "b": "base", "l": "large", "g": "giant"}
HUB_IMG_SIZE = 518
HUB_REGISTERS = 4

GRAMMAR = "vit_{tiny|small|base|large|giant}_patch{P}[_reg{R}][_swiglu] or dinov2_vit{s|b|l|g}14[_reg]"
"""How an architecture's name is written."""

_NAME = re.compile(rf"vit_({'|'.join(ARCHITECTURES)})_patch(\d+)(?:_reg(\d+))?(_swiglu)?")
_HUB_NAME = re.compile(rf"dinov2_vit([{''.join(HUB_SIZES)}])14(_reg)?")


def architecture(name: str, **changes: Any) -> ViTConfig:
    """The settings that a name stands for, with `changes` (fields of `ViTConfig`) laid over them.

    The position table is resized as in the released models: antialiased with registers, with an offset of
    0.1 without (`nexus.models.vision.embed.positions`); this follows `num_register_tokens`, wherever that
    comes from, unless `changes` say otherwise. The image size is 224 px, for a hub name 518 px.

    Raises `ConfigError` for an unknown name, field or value.
    """
    fields = {**_fields(name), **changes}
    registers = fields.get("num_register_tokens", 0)
    fields.setdefault("interpolate_antialias", bool(registers))
    fields.setdefault("interpolate_offset", 0.0 if registers else 0.1)
    return build(ViTConfig, fields)


def _fields(name: str) -> dict[str, Any]:
    """What the name alone says."""
    if found := _NAME.fullmatch(name):
        size, patch, registers, swiglu = found.groups()
        fields = {
            **ARCHITECTURES[size],
            "patch_size": int(patch),
            "num_register_tokens": int(registers or 0),
        }
        return {**fields, "ffn_layer": "swiglufused"} if swiglu else fields
    if found := _HUB_NAME.fullmatch(name):
        letter, registers = found.groups()
        return {
            **ARCHITECTURES[HUB_SIZES[letter]],
            "patch_size": 14,
            "img_size": HUB_IMG_SIZE,
            "num_register_tokens": HUB_REGISTERS if registers else 0,
        }
    raise ConfigError(_unknown(name))


def _unknown(name: str) -> str:
    """The message for a name outside the grammar."""
    tails = ("", "_reg4", "_swiglu", "_reg4_swiglu")
    known = [
        f"vit_{size}_patch{patch}{tail}" for size in ARCHITECTURES for patch in (8, 14, 16) for tail in tails
    ]
    known += [f"dinov2_vit{letter}14{tail}" for letter in HUB_SIZES for tail in ("", "_reg")]
    guess = nearest(name, known)
    hint = f"; did you mean {guess!r}?" if guess else "."
    return f"unknown architecture {name!r}{hint} Names are written {GRAMMAR}"
