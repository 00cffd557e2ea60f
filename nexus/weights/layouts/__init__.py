"""One file for each ecosystem: how to recognise it, its key names, and the way there where it is a target.

::

    table         key names read in both directions
    translation   what a layout returns; tensors that only one side has
    official      facebookresearch/dinov2, flat or in chunks; ours; the target `hub`
    huggingface   transformers; the target `hf`
    timm          timm; the target `timm`
    lightly       lightly's wrapper around timm
    dinov1        DINO (2021), iBOT
"""

from collections.abc import Mapping

from torch import Tensor

from nexus.weights.layouts import dinov1, huggingface, lightly, official, timm
from nexus.weights.layouts.translation import Resizing, Translation

__all__ = ["LAYOUTS", "Resizing", "Translation", "to_official"]

LAYOUTS = (huggingface, lightly, timm, dinov1, official)
"""Every layout, in the order in which they are tried; the last takes what is left."""


def to_official(tensors: Mapping[str, Tensor]) -> Translation:
    """The tensors of one backbone, without prefixes, under official names."""
    return next(layout for layout in LAYOUTS if layout.recognises(tensors)).to_official(tensors)
