"""Small backbones whose features depend on everything that an export can get wrong.

Fresh weights would hide mistakes: layer scale 1e-5 makes every CLS token the same, and a table of standard
deviation 0.02 hardly matters. So layer scale is 1, and tokens and table are drawn large.
"""

from typing import Any

import torch

from nexus.models.vision import VisionTransformer, architecture, build_backbone


def lively(name: str = "vit_tiny_patch8", **changes: Any) -> VisionTransformer:
    """A shallow backbone for images of 40 px, or whatever `changes` say, with weights that matter."""
    small = {"depth": 2, "embed_dim": 64, "num_heads": 1, "img_size": 40, "init_values": 1.0}
    torch.manual_seed(0)
    model = build_backbone(architecture(name, **{**small, **changes})).eval()
    with torch.no_grad():
        model.pos_embed.normal_(std=0.5)
        model.cls_token.normal_()
        if model.register_tokens is not None:
            model.register_tokens.normal_()
        for parameter in model.blocks.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return model
