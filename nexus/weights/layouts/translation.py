"""What every layout returns, and what it does about tensors that only one side has."""

from collections.abc import Container, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from nexus.models.vision import ViTConfig, build_backbone


@dataclass(frozen=True)
class Resizing:
    """How a library resizes the position table; see `nexus.models.vision.embed.positions`."""

    offset: float
    antialias: bool

    def __str__(self) -> str:
        smooth = "with" if self.antialias else "without"
        return f"offset {self.offset:g}, {smooth} antialiasing"

    @classmethod
    def of(cls, config: ViTConfig) -> "Resizing":
        """How a backbone of ours resizes it."""
        return cls(config.interpolate_offset, config.interpolate_antialias)


@dataclass(frozen=True)
class Translation:
    """The tensors of a backbone under official names, and what it took."""

    tensors: dict[str, Tensor]
    layout: str
    """Whose file it is, in words."""
    dropped: tuple[str, ...] = ()
    """Keys that were left aside: classifiers."""
    filled: tuple[str, ...] = ()
    """What the file lacks and what stands there instead, one sentence each."""
    resizing: Resizing | None = None
    """How the library of this layout resizes positions, if it is not the official code."""


def with_mask_token(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The tensors with a mask token, and the sentence about it where the file had none."""
    cls = tensors.get("cls_token")
    if "mask_token" in tensors or cls is None or not cls.ndim:
        return tensors, ()
    token = torch.zeros(1, cls.shape[-1], dtype=cls.dtype)
    return {**tensors, "mask_token": token}, (
        "mask_token is not in the file: zeros (only training with masks uses it)",
    )


def with_neutral(tensors: Mapping[str, Tensor], config: ViTConfig) -> dict[str, Tensor]:
    """The tensors, completed for an architecture that has more of them, without changing any feature.

    Layer scales of one and biases of zero change nothing. `config` is the architecture that must be filled.
    """
    with torch.device("meta"):
        wanted = build_backbone(config).state_dict()
    return {
        key: tensors[key] if key in tensors else torch.full(like.shape, _neutral(key))
        for key, like in wanted.items()
    }


def without_neutral(tensors: Mapping[str, Tensor], wanted: Container[str]) -> dict[str, Tensor]:
    """Undo `with_neutral`: leave out what is not wanted, if it really changes nothing."""
    return {
        key: tensor
        for key, tensor in tensors.items()
        if key in wanted or not key.endswith((".gamma", ".bias")) or not bool((tensor == _neutral(key)).all())
    }


def _neutral(key: str) -> float:
    assert key.endswith((".gamma", ".bias")), key
    return 1.0 if key.endswith(".gamma") else 0.0
