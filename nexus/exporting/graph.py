"""The backbone as a graph that exporters understand: the same weights, written without Python's choices.

What differs from `nexus.models.vision.vit`: positions come from `resampling`, or are baked in for one
size; there are no checks and warnings about sizes; what half precision endangers can stay in float32.
"""

import copy
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nexus.exporting.outputs import Output
from nexus.exporting.resampling import PositionTable
from nexus.models.vision import VisionTransformer
from nexus.models.vision.embed import positions

Part = Literal["norm", "softmax", "residual"]
"""What may stay in float32 in half precision: LayerNorm, softmax, the sums that run through the blocks."""

Scaling = Literal["uint8", "float"]
"""Inputs that the graph itself normalises: whole bytes, or floats from 0 to 255."""


class ExportGraph(nn.Module):
    """Images to a tuple of outputs, in the order of `outputs`; all outputs are float32.

    `grid` = (rows, cols) bakes the positions of one size in; None keeps them dynamic. `dtype` is that of the
    weights and, but for the parts in `keep`, of the computation. Images are float32 and normalised; with
    `pixels` = (mean, std), in 0..1, they are 0..255 and the graph normalises them.
    """

    before: Tensor
    factor: Tensor
    shift: Tensor

    def __init__(
        self,
        backbone: VisionTransformer,
        outputs: Sequence[Output],
        *,
        grid: tuple[int, int] | None = None,
        dtype: torch.dtype = torch.float32,
        keep: Sequence[Part] = (),
        pixels: tuple[Sequence[float], Sequence[float]] | None = None,
    ) -> None:
        super().__init__()
        self.outputs, self.dtype = tuple(outputs), dtype
        self.keep = frozenset(get_args(Part) if dtype is torch.float32 else keep)
        self.depth = 1 + max(output.block for output in outputs)
        self.scaled = pixels is not None
        source = backbone if dtype is torch.float32 else copy.deepcopy(backbone)
        self.patch = source.patch_embed.proj.to(dtype)
        self.blocks = source.blocks[: self.depth].to(dtype)
        self.norm = source.norm.to(dtype)
        self._keep_norms()
        self._positions(backbone, grid)
        if pixels is not None:
            mean, std = (torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1) for values in pixels)
            self.register_buffer("factor", (1 / (255 * std)).float())
            self.register_buffer("shift", (mean / std).float())

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """The outputs for (batch, chans, height, width) images."""
        features = self.patch(self._normalised(images).to(self.dtype))
        features = features + self.table(features).to(features.dtype)
        batch, rows, cols = images.shape[0], features.shape[2], features.shape[3]
        tokens = torch.cat((self.before.expand(batch, -1, -1), features.flatten(2).transpose(1, 2)), dim=1)
        if "residual" in self.keep:
            tokens = tokens.float()
        found: dict[str, Tensor] = {}
        for index, block in enumerate(self.blocks):
            tokens = self._block(block, tokens)
            for output in self.outputs:
                if output.block == index:
                    found[output.name] = self._output(output.kind, tokens, rows, cols)
        return tuple(found[output.name] for output in self.outputs)

    def _keep_norms(self) -> None:
        """LayerNorms in float32 keep their weights so."""
        if "norm" in self.keep:
            for module in self.modules():
                if isinstance(module, nn.LayerNorm):
                    module.float()

    def _positions(self, backbone: VisionTransformer, grid: tuple[int, int] | None) -> None:
        """What stands before the patches, and the positions of these."""
        config, table = backbone.config, backbone.pos_embed.detach()
        offset, antialias = config.interpolate_offset, config.interpolate_antialias
        before = [backbone.cls_token.detach() + table[:, :1]]
        if backbone.register_tokens is not None:
            before.append(backbone.register_tokens.detach())
        self.register_buffer("before", torch.cat(before, dim=1).to(self.dtype))
        self.first_patch = self.before.shape[1]
        if grid is None:
            self.table: nn.Module = PositionTable(table, offset=offset, antialias=antialias)
        else:
            baked = positions(table, *grid, offset=offset, antialias=antialias)[:, 1:]
            self.table = _Baked(baked.transpose(1, 2).unflatten(2, grid).contiguous())

    def _normalised(self, images: Tensor) -> Tensor:
        return images.float() * self.factor - self.shift if self.scaled else images

    def _block(self, block: Any, tokens: Tensor) -> Tensor:
        tokens = tokens + block.ls1(self._attention(block.attn, self._norm(block.norm1, tokens)))
        return tokens + block.ls2(block.mlp(self._norm(block.norm2, tokens)))

    def _norm(self, norm: nn.Module, tokens: Tensor) -> Tensor:
        return norm(tokens.float() if "norm" in self.keep else tokens).to(self.dtype)

    def _attention(self, attention: Any, tokens: Tensor) -> Tensor:
        heads, width = attention.num_heads, attention.head_dim
        packed = attention.qkv(tokens).unflatten(2, (3, heads, width))
        query, key, value = packed.permute(2, 0, 3, 1, 4).unbind(0)
        if self.dtype is not torch.float32 and "softmax" in self.keep:
            scores = (query * width**-0.5) @ key.transpose(-2, -1)
            mixed = scores.float().softmax(dim=-1).to(self.dtype) @ value
        else:
            mixed = F.scaled_dot_product_attention(query, key, value)
        return attention.proj(mixed.transpose(1, 2).flatten(2))

    def _output(self, kind: str, tokens: Tensor, rows: Any, cols: Any) -> Tensor:
        tokens = self._norm(self.norm, tokens).float()
        if kind == "cls":
            return tokens[:, 0]
        if kind == "registers":
            return tokens[:, 1 : self.first_patch]
        patches = tokens[:, self.first_patch :]
        if kind == "mean_patch":
            return patches.mean(dim=1)
        if kind == "patch_map":
            return patches.transpose(1, 2).unflatten(2, (rows, cols))
        return patches


class _Baked(nn.Module):
    """The positions of one grid, as a constant map: another grid cannot be added to it."""

    constant: Tensor

    def __init__(self, constant: Tensor) -> None:
        super().__init__()
        self.register_buffer("constant", constant.float())

    def forward(self, features: Tensor) -> Tensor:
        return self.constant
