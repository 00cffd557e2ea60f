"""lightly's `MaskedVisionTransformerTIMM`: a timm backbone under `vit.`, with the mask token beside it.

lightly's training examples keep them under `teacher_backbone.` and `student_backbone.`.
"""

from collections.abc import Mapping

from torch import Tensor

from nexus.weights.layouts import timm
from nexus.weights.layouts.translation import Translation


def recognises(tensors: Mapping[str, Tensor]) -> bool:
    """A timm backbone inside of `vit.`."""
    return "vit.patch_embed.proj.weight" in tensors


def to_official(tensors: Mapping[str, Tensor]) -> Translation:
    """What timm's layout makes of the backbone, with lightly's mask token (1, 1, dim) as (1, dim)."""
    inner = {key.removeprefix("vit."): tensor for key, tensor in tensors.items() if key != "mask_token"}
    found = timm.to_official(inner)
    result, filled = found.tensors, found.filled
    if "mask_token" in tensors:
        token = tensors["mask_token"]
        result = {**result, "mask_token": token.flatten(0, 1) if token.ndim == 3 else token}
        filled = ()
    return Translation(result, "lightly's MaskedVisionTransformerTIMM", found.dropped, filled, found.resizing)
