"""The contract for models of other libraries: say four numbers, give tokens; everything else follows.

::

    class Theirs(TokenBackbone):
        def __init__(self, model):
            super().__init__(
                embed_dim=384, patch_size=16, n_blocks=12, num_register_tokens=0,
                normalization=((0.5,) * 3, (0.5,) * 3), shown=Shown("theirs", img_size=224),
            )
            self.model = model

        def layer_tokens(self, x, blocks):
            return [self.model.tokens_after_block(x, block) for block in blocks]   # after the final norm

    nexus.evaluate(data="LABELLED", model=Theirs(model), tasks="knn,linear")
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

Normalization = tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True)
class Shown:
    """What a model is, and which images it wants: part of what features are recognised by."""

    name: str
    img_size: int = 224
    in_chans: int = 3


class TokenBackbone(nn.Module, ABC):
    """A `nexus.features.Backbone` made of one method, `layer_tokens`.

    `embed_dim` is the width of a token, `patch_size` the pixels that a patch token stands for (of a CNN: the
    stride of its last feature map), `n_blocks` how many layers can be asked for, `normalization` mean and
    deviation in 0..1.
    """

    def __init__(
        self,
        *,
        embed_dim: int,
        patch_size: int,
        n_blocks: int,
        num_register_tokens: int,
        normalization: Normalization,
        shown: Shown,
    ) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.patch_size = patch_size
        self.n_blocks = n_blocks
        self.num_register_tokens = num_register_tokens
        self.normalization = normalization
        self.config = shown

    @abstractmethod
    def layer_tokens(
        self, x: Float[Tensor, "batch chans height width"], blocks: Sequence[int]
    ) -> list[Float[Tensor, "batch tokens dim"]]:
        """Tokens after the final norm for each of `blocks` (ascending, from 0): CLS, registers, patches."""

    def forward_features(self, x: Float[Tensor, "batch chans height width"]) -> dict[str, Tensor]:
        """The tokens of the last block by name."""
        (tokens,) = self.layer_tokens(x, [self.n_blocks - 1])
        first = 1 + self.num_register_tokens
        return {
            "x_norm_clstoken": tokens[:, 0],
            "x_norm_regtokens": tokens[:, 1:first],
            "x_norm_patchtokens": tokens[:, first:],
        }

    def get_intermediate_layers(
        self,
        x: Float[Tensor, "batch chans height width"],
        n: int | Sequence[int] = 1,
        reshape: bool = False,
        return_class_token: bool = False,
        norm: bool = True,
    ) -> tuple[Any, ...]:
        """Patch tokens (or maps) of the last `n` blocks, or of the blocks `n`, with CLS if asked for."""
        assert norm, "tokens are given after the final norm"
        blocks = list(range(self.n_blocks - n, self.n_blocks)) if isinstance(n, int) else list(n)
        found: list[Any] = []
        for tokens in self.layer_tokens(x, blocks):
            patches: Tensor = tokens[:, 1 + self.num_register_tokens :]
            if reshape:
                grid = tuple(side // self.patch_size for side in x.shape[-2:])
                patches = patches.transpose(1, 2).unflatten(2, grid).contiguous()
            found.append((patches, tokens[:, 0]) if return_class_token else patches)
        return tuple(found)

    def forward(self, x: Float[Tensor, "batch chans height width"]) -> Float[Tensor, "batch dim"]:
        """CLS of the last block."""
        return self.forward_features(x)["x_norm_clstoken"]


def map_tokens(
    features: Float[Tensor, "batch dim rows cols"], pooled: Float[Tensor, "batch dim"] | None = None
) -> Float[Tensor, "batch tokens dim"]:
    """A feature map as tokens: `pooled` is CLS, or the mean where it is left out or has another width."""
    patches = features.flatten(2).transpose(1, 2)
    if pooled is None or pooled.shape[1] != patches.shape[2]:
        pooled = patches.mean(dim=1)
    return torch.cat([pooled[:, None], patches], dim=1)
