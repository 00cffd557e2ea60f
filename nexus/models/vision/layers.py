"""What a transformer block is made of: attention, feed-forward, layer scale; and the block.

One block (pre-norm, Touvron et al. "Going deeper with image transformers", arXiv 2103.17239)::

    x = x + ls1(attn(norm1(x)))
    x = x + ls2(mlp(norm2(x)))

Crops of several sizes (groups) can go through a block together: norms and linear layers see one table of all
their tokens, attention each group by itself. Parameter names and shapes are those of the official DINOv2
checkpoints.
"""

from collections.abc import Callable, Sequence
from typing import overload

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from nexus.errors import choose
from nexus.models.vision.stochastic_depth import Subset, add_branch, chosen_images, draw_subset, slots

NORM_EPS = 1e-6
"""Epsilon of every LayerNorm of the backbone."""

MOST_TOKENS_WRITTEN_OUT = 1024

Shapes = Sequence[tuple[int, int]]
"""Images and tokens of each group."""


def side_by_side(groups: Sequence[Float[Tensor, "_ _ dim"]]) -> Float[Tensor, "*rows dim"]:
    """All tokens as one table for layers that work token by token; a single group is one already."""
    return groups[0] if len(groups) == 1 else torch.cat([x.flatten(0, 1) for x in groups])


def apart(table: Float[Tensor, "*rows dim"], shapes: Shapes) -> list[Float[Tensor, "_ _ dim"]]:
    """The groups of such a table, each (images, tokens, dim)."""
    if len(shapes) == 1:
        return [table]
    parts = table.split([images * tokens for images, tokens in shapes])
    return [part.unflatten(0, shape) for part, shape in zip(parts, shapes, strict=True)]


def shapes_of(groups: Sequence[Float[Tensor, "_ _ dim"]]) -> Shapes:
    """Images and tokens of each group."""
    return [(x.shape[0], x.shape[1]) for x in groups]


class Attention(nn.Module):
    """Multi-head self-attention: `softmax(q kᵀ / √(dim / heads)) v`, then a projection.

    One linear layer makes q, k and v, packed in that order along its output.
    """

    def __init__(self, dim: int, num_heads: int, *, qkv_bias: bool = True, proj_bias: bool = True) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim, bias=proj_bias)

    def forward(
        self, x: Float[Tensor, "*rows dim"], shapes: Shapes | None = None
    ) -> Float[Tensor, "*rows dim"]:
        """Every token as a mixture of all tokens of its image.

        `x` is (batch, tokens, dim), or a table of several groups with their `shapes`.
        """
        return self.proj(self.mixed(x, shapes or shapes_of([x])))

    def mixed(self, table: Float[Tensor, "*rows dim"], shapes: Shapes) -> Float[Tensor, "*rows dim"]:
        """The mixtures before the projection, heads side by side; each group of the table by itself."""
        groups = [attend(*self._split(packed)) for packed in apart(self.qkv(table), shapes)]
        return side_by_side([mixture.transpose(1, 2).flatten(2) for mixture in groups])

    def weights(self, x: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch heads tokens tokens"]:
        """The attention itself, written out: row `i` says what token `i` looks at, and sums to 1."""
        query, key, _ = self._split(self.qkv(x))
        return (query * self.head_dim**-0.5 @ key.transpose(-2, -1)).softmax(dim=-1)

    def _split(self, packed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each (batch, heads, tokens, dim / heads)."""
        batch, tokens, _ = packed.shape
        parts = packed.reshape(batch, tokens, 3, self.num_heads, self.head_dim)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        return query, key, value


def attend(
    query: Float[Tensor, "batch heads tokens _"],
    key: Float[Tensor, "batch heads tokens _"],
    value: Float[Tensor, "batch heads tokens _"],
) -> Float[Tensor, "batch heads tokens _"]:
    """`softmax(q kᵀ / √width) v`, fused where that is faster.

    PyTorch's fused kernel for CPUs is 2 to 5 times slower in bf16 than the two products written out
    (docs/log.md), so those are used there, as long as the table of weights stays small.
    """
    written_out = query.device.type == "cpu" and query.dtype is torch.bfloat16
    if written_out and query.shape[2] <= MOST_TOKENS_WRITTEN_OUT:
        return (query * query.shape[-1] ** -0.5 @ key.transpose(-2, -1)).softmax(dim=-1) @ value
    return F.scaled_dot_product_attention(query, key, value)


class Mlp(nn.Module):
    """Feed-forward of two layers: `fc2(gelu(fc1(x)))`, GELU in its exact (erf) form."""

    def __init__(self, dim: int, hidden_dim: int, *, bias: bool = True) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim, bias=bias)
        self.fc2 = nn.Linear(hidden_dim, dim, bias=bias)

    def forward(self, x: Float[Tensor, "... dim"]) -> Float[Tensor, "... dim"]:
        """Each token on its own."""
        return self.fc2(F.gelu(self.fc1(x)))


class SwiGLU(nn.Module):
    """Gated feed-forward: `w3(silu(a) · b)` with `[a | b] = w12(x)` (Shazeer, arXiv 2002.05202).

    `hidden_dim` is what an `Mlp` would have; two thirds of it, rounded up to a multiple of 8, give about
    the same number of parameters: 4096 becomes 2736, 6144 becomes 4096.
    """

    def __init__(self, dim: int, hidden_dim: int, *, bias: bool = True) -> None:
        super().__init__()
        gated_dim = (int(hidden_dim * 2 / 3) + 7) // 8 * 8
        self.w12 = nn.Linear(dim, 2 * gated_dim, bias=bias)
        self.w3 = nn.Linear(gated_dim, dim, bias=bias)

    def forward(self, x: Float[Tensor, "... dim"]) -> Float[Tensor, "... dim"]:
        """Each token on its own."""
        gate, value = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.silu(gate) * value)


def _no_ffn(dim: int, hidden_dim: int, *, bias: bool = True) -> nn.Module:
    return nn.Identity()


FFN_LAYERS: dict[str, Callable[..., nn.Module]] = {
    "mlp": Mlp,
    "swiglu": SwiGLU,
    "swiglufused": SwiGLU,
    "identity": _no_ffn,
}
"""Feed-forward layers by their official names; the official `swiglufused` is only a faster kernel."""


class LayerScale(nn.Module):
    """A learned factor per channel, `gamma · x`, that starts small so that a block starts as identity."""

    def __init__(self, dim: int, init_values: float) -> None:
        super().__init__()
        self.init_values = init_values
        self.gamma = nn.Parameter(torch.empty(dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Every factor back to `init_values`."""
        nn.init.constant_(self.gamma, self.init_values)

    def forward(self, x: Float[Tensor, "... dim"]) -> Float[Tensor, "... dim"]:
        """The tokens, scaled channel by channel."""
        return x * self.gamma


Subsets = tuple[Subset, Subset]
"""The images of a group that attention and the feed-forward layer of one block compute."""


class Block(nn.Module):
    """A transformer block; see the top of this file. `drop_path_rate` acts in training only."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        mlp_ratio: float = 4.0,
        ffn_layer: str = "mlp",
        init_values: float | None = None,
        drop_path_rate: float = 0.0,
        qkv_bias: bool = True,
        proj_bias: bool = True,
        ffn_bias: bool = True,
    ) -> None:
        super().__init__()
        ffn = choose(ffn_layer, FFN_LAYERS, "ffn_layer")
        self.drop_path_rate = drop_path_rate
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = Attention(dim, num_heads, qkv_bias=qkv_bias, proj_bias=proj_bias)
        self.ls1 = LayerScale(dim, init_values) if init_values else nn.Identity()
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = ffn(dim, int(dim * mlp_ratio), bias=ffn_bias)
        self.ls2 = LayerScale(dim, init_values) if init_values else nn.Identity()

    @overload
    def forward(self, x: Tensor) -> Tensor: ...

    @overload
    def forward(self, x: Sequence[Tensor], subsets: Sequence[Subsets]) -> list[Tensor]: ...

    @overload
    def forward(self, x: Sequence[Tensor], subsets: Sequence[Subsets], rows: Sequence[Tensor]) -> Tensor: ...

    def forward(
        self,
        x: Float[Tensor, "batch tokens dim"] | Sequence[Float[Tensor, "_ _ dim"]],
        subsets: Sequence[Subsets] | None = None,
        rows: Sequence[Int[Tensor, " _"]] | None = None,
    ) -> Float[Tensor, "batch tokens dim"] | list[Float[Tensor, "_ _ dim"]] | Float[Tensor, "rows dim"]:
        """Tokens after this block: of one batch, or of several groups with their drawn `subsets`.

        With `rows` the tokens at these places of each group's flat (images · tokens) table, all in one table:
        the same numbers as without, but what follows attention is computed for them alone.
        """
        if isinstance(x, Tensor):
            (out,) = self._forward([x], [self.draw(len(x), x.device)])
            return out
        assert subsets is not None, "groups come with their subsets"
        return self._forward(x, subsets) if rows is None else self._at(x, subsets, rows)

    def draw(self, images: int, device: torch.device) -> Subsets:
        """The images that each of the two branches computes in this pass."""
        rate = self.drop_path_rate if self.training else 0.0
        return draw_subset(images, rate, device), draw_subset(images, rate, device)

    def attention_weights(
        self, x: Float[Tensor, "batch tokens dim"]
    ) -> Float[Tensor, "batch heads tokens tokens"]:
        """The attention that this block applies to the tokens `x` that enter it."""
        return self.attn.weights(self.norm1(x))

    def _forward(self, groups: Sequence[Tensor], subsets: Sequence[Subsets]) -> list[Tensor]:
        groups = add_branch(groups, self._attention_branch, [first for first, _ in subsets])
        return add_branch(groups, self._feed_forward_branch, [second for _, second in subsets])

    def _attention_branch(self, groups: Sequence[Tensor]) -> list[Tensor]:
        shapes = shapes_of(groups)
        return apart(self.ls1(self.attn(self.norm1(side_by_side(groups)), shapes)), shapes)

    def _feed_forward_branch(self, groups: Sequence[Tensor]) -> list[Tensor]:
        return apart(self._feed_forward(side_by_side(groups)), shapes_of(groups))

    def _feed_forward(self, table: Tensor) -> Tensor:
        out: Tensor = self.ls2(self.mlp(self.norm2(table)))
        return out

    def _at(self, groups: Sequence[Tensor], subsets: Sequence[Subsets], rows: Sequence[Tensor]) -> Tensor:
        """`_forward` at some tokens; those of images that a branch leaves out get 0 times what it says."""
        seen = chosen_images(groups, [first for first, _ in subsets])
        shapes = shapes_of(seen)
        mixtures = apart(self.attn.mixed(self.norm1(side_by_side(seen)), shapes), shapes)
        entering, mixed, factors, more = [], [], [], []
        for x, mixture, (first, second), wanted in zip(groups, mixtures, subsets, rows, strict=True):
            images, tokens, _ = x.shape
            image, token = wanted // tokens, wanted % tokens
            slot, factor = slots(first, images, x.device)
            entering.append(x.flatten(0, 1).index_select(0, wanted))
            mixed.append(mixture.flatten(0, 1).index_select(0, slot[image] * tokens + token))
            factors.append(factor[image])
            more.append(slots(second, images, x.device)[1][image])
        residual = self.ls1(self.attn.proj(torch.cat(mixed)))
        out = torch.cat(entering) + torch.cat(factors) * residual
        return out + torch.cat(more) * self._feed_forward(out)
