"""DINO of 2021 (`facebookresearch/dino`) and iBOT: the official names, without layer scale and registers.

A supervised vision transformer of timm without layer scale looks the same; its classifier is left aside.
DINO has no mask token; iBOT calls it `masked_embed`. Both resize positions with an offset of 0.1, like
DINOv2 without registers.
"""

from collections.abc import Mapping

from torch import Tensor

from nexus.weights.layouts.translation import Translation, with_mask_token

_CLASSIFIER = ("head.weight", "head.bias")


def recognises(tensors: Mapping[str, Tensor]) -> bool:
    """A vision transformer without the official mask token."""
    return "patch_embed.proj.weight" in tensors and "mask_token" not in tensors


def to_official(tensors: Mapping[str, Tensor]) -> Translation:
    """The tensors, iBOT's mask token renamed, a missing one filled in."""
    kept = {
        "mask_token" if key == "masked_embed" else key: tensor
        for key, tensor in tensors.items()
        if key not in _CLASSIFIER
    }
    layout = "iBOT" if "mask_token" in kept else "DINO (2021), or a plain vision transformer"
    kept, filled = with_mask_token(kept)
    return Translation(kept, layout, tuple(key for key in _CLASSIFIER if key in tensors), filled)
