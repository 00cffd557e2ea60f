"""Frozen patch tokens as maps, layer by layer."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from nexus.evals.context import EvalContext


class LayerMap(NamedTuple):
    """One layer of a batch of images: a map of patch tokens, and CLS."""

    patches: Float[Tensor, "batch dim rows cols"]
    cls: Float[Tensor, "batch dim"]


Maps = tuple[LayerMap, ...]
"""One for each layer, the deepest last."""


def layer_maps(
    context: EvalContext, pixels: UInt8[Tensor, "batch 3 height width"], layers: Sequence[int]
) -> Maps:
    """The tokens of some layers (counted from 1) on the context's device, float32, after the final norm."""
    found = context.look(context.normalized(pixels), layers)
    return tuple(LayerMap(found.layers[layer].patches, found.layers[layer].cls) for layer in layers)


def last_layers(depth: int, count: int) -> tuple[int, ...]:
    """The last `count` layers, or all that there are: 9, 10, 11, 12."""
    return tuple(range(max(1, depth - count + 1), depth + 1))


def spread_layers(depth: int) -> tuple[int, ...]:
    """Four layers spread over the depth, with the last: 3, 6, 9, 12; of 24 the official 5, 12, 18, 24."""
    if depth == 24:
        return 5, 12, 18, 24
    return tuple(sorted({max(1, round(depth * quarter / 4)) for quarter in (1, 2, 3, 4)}))


def flipped(pixels: UInt8[Tensor, "batch 3 height width"]) -> UInt8[Tensor, "batch 3 height width"]:
    """Images mirrored left to right."""
    return torch.flip(pixels, (-1,))
