"""Raw pixels as a backbone: the baseline that every learned feature must beat.

A patch token is the pixels of the patch. CLS is the whole image shrunk to one patch, so that both have the
width that the contract promises. (As a feature table, raw pixels are the whole image at 32 × 32: see
`EvalContext.features`.)
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class PixelBackbone(nn.Module):
    """`nexus.features.Backbone` of one block that computes nothing; `like` says how images are shown."""

    n_blocks = 1
    num_register_tokens = 0

    def __init__(self, like: Any) -> None:
        super().__init__()
        object.__setattr__(self, "like", like)  # no submodule: its weights are not ours
        self.patch_size: int = like.patch_size
        self.config = getattr(like, "config", None)
        for name in ("look", "normalization"):
            if hasattr(like, name):
                setattr(self, name, getattr(like, name))
        self.chans: int = getattr(self.config, "in_chans", 3)
        self.embed_dim = self.chans * self.patch_size**2
        self.place = nn.Parameter(torch.zeros(()), requires_grad=False)  # knows the device

    def forward_features(self, x: Float[Tensor, "batch chans height width"]) -> dict[str, Tensor]:
        """Tokens by name, as of any other backbone."""
        patches, cls = self._tokens(x)
        return {
            "x_norm_clstoken": cls,
            "x_norm_regtokens": cls.new_empty(len(cls), 0, cls.shape[1]),
            "x_norm_patchtokens": patches,
            "x_prenorm": torch.cat([cls[:, None], patches], dim=1),
        }

    def get_intermediate_layers(
        self,
        x: Float[Tensor, "batch chans height width"],
        n: int | Sequence[int] = 1,
        reshape: bool = False,
        return_class_token: bool = False,
        norm: bool = True,
    ) -> tuple[Any, ...]:
        """The same tokens for each layer that is asked for; there is one."""
        patches, cls = self._tokens(x)
        if reshape:
            grid = tuple(side // self.patch_size for side in x.shape[-2:])
            patches = patches.transpose(1, 2).unflatten(2, grid).contiguous()
        count = 1 if isinstance(n, int) else len(n)
        return ((patches, cls) if return_class_token else patches,) * count

    def forward(self, x: Float[Tensor, "batch chans height width"]) -> Float[Tensor, "batch dim"]:
        """CLS."""
        return self._tokens(x)[1]

    def _tokens(self, x: Tensor) -> tuple[Tensor, Tensor]:
        side = self.patch_size
        rows, cols = x.shape[-2] // side, x.shape[-1] // side
        patches = F.unfold(x[..., : rows * side, : cols * side], side, stride=side).transpose(1, 2)
        return patches, F.adaptive_avg_pool2d(x, side).flatten(1)
