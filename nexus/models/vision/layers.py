"""What a transformer block is made of: attention, feed-forward, layer scale, stochastic depth.

One block (pre-norm, Touvron et al. "Going deeper with image transformers", arXiv 2103.17239)::

    x = x + ls1(attn(norm1(x)))
    x = x + ls2(mlp(norm2(x)))

Parameter names and shapes are those of the official DINOv2 checkpoints.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from nexus.errors import choose

NORM_EPS = 1e-6
"""Epsilon of every LayerNorm of the backbone."""

Branch = Callable[[Tensor], Tensor]
"""A residual branch: tokens in, tokens of the same shape out."""


MOST_TOKENS_WRITTEN_OUT = 1024


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

    def forward(self, x: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch tokens dim"]:
        """Every token as a mixture of all tokens of its image."""
        return self.proj(self.mixed(x))

    def mixed(self, x: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch tokens dim"]:
        """The mixtures before the projection, heads side by side."""
        query, key, value = self._split(x)
        return attend(query, key, value).transpose(1, 2).flatten(2)

    def weights(self, x: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch heads tokens tokens"]:
        """The attention itself, written out: row `i` says what token `i` looks at, and sums to 1."""
        query, key, _ = self._split(x)
        return (query * self.head_dim**-0.5 @ key.transpose(-2, -1)).softmax(dim=-1)

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each (batch, heads, tokens, dim / heads)."""
        batch, tokens, _ = x.shape
        packed = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, self.head_dim)
        query, key, value = packed.permute(2, 0, 3, 1, 4).unbind(0)
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


def kept_samples(batch: int, rate: float) -> int:
    """How many of `batch` images a branch computes at stochastic-depth rate `rate`: at least one."""
    return max(int(batch * (1.0 - rate)), 1)


def add_branch(
    x: Float[Tensor, "batch tokens dim"], branch: Branch, rate: float = 0.0
) -> Float[Tensor, "batch tokens dim"]:
    """`x + branch(x)`, with stochastic depth of exact counts at `rate` in [0, 1).

    As in the official training code (DINOv2, §5 of arXiv 2304.07193), the branch is not multiplied by
    zero but left out: it sees only a random subset of the batch, so the time saved is about `rate`. ::

        chosen = `kept` of the `batch` images, at random, kept = max(int(batch · (1 - rate)), 1)
        x[chosen] += batch / kept · branch(x[chosen])

    The factor keeps the expectation: averaged over draws the result is `x + branch(x)`. Unlike with
    per-sample coin flips the count, and with it memory and factor, is the same in every step. Random
    numbers come from torch's global generator of the device.
    """
    batch = x.shape[0]
    kept = kept_samples(batch, rate)
    if rate == 0.0 or kept == batch:
        return x + branch(x)
    chosen = torch.randperm(batch, device=x.device)[:kept]
    residual = branch(x[chosen]).to(x.dtype)
    return torch.index_add(x, 0, chosen, residual, alpha=batch / kept)


def _drawn(batch: int, rate: float, device: torch.device) -> tuple[Tensor | None, Tensor, Tensor]:
    """`add_branch`'s draw: the chosen images, each image's slot among them, and its factor (batch, 1).

    Nothing chosen means all. An image that is left out gets slot 0 and factor 0.
    """
    kept = kept_samples(batch, rate)
    if rate == 0.0 or kept == batch:
        return None, torch.arange(batch, device=device), torch.ones(batch, 1, device=device)
    chosen = torch.randperm(batch, device=device)[:kept]
    slot = torch.zeros(batch, dtype=torch.long, device=device)
    slot[chosen] = torch.arange(kept, device=device)
    factor = torch.zeros(batch, 1, device=device)
    factor[chosen] = batch / kept
    return chosen, slot, factor


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

    def forward(
        self, x: Float[Tensor, "batch tokens dim"], rows: Int[Tensor, " rows"] | None = None
    ) -> Float[Tensor, "batch tokens dim"] | Float[Tensor, "rows dim"]:
        """Tokens after this block; each branch draws its own subset of the batch.

        With `rows` only the tokens at these places of the flat (batch · tokens) table: the same numbers as
        without, but what follows attention is computed for them alone.
        """
        rate = self.drop_path_rate if self.training else 0.0
        if rows is not None:
            return self._at(x, rows, rate)
        x = add_branch(x, self._attention_branch, rate)
        return add_branch(x, self._feed_forward_branch, rate)

    def _at(self, x: Tensor, rows: Tensor, rate: float) -> Tensor:
        """`forward` at some tokens; rows of images that stochastic depth leaves out get 0 times a branch."""
        batch, tokens, _ = x.shape
        image, place = rows // tokens, rows % tokens
        chosen, slot, factor = _drawn(batch, rate, x.device)
        mixed = self.attn.mixed(self.norm1(x if chosen is None else x[chosen]))
        residual = self.ls1(self.attn.proj(mixed.flatten(0, 1)[slot[image] * tokens + place]))
        out = x.flatten(0, 1)[rows] + factor[image] * residual
        _, _, factor = _drawn(batch, rate, x.device)
        return out + factor[image] * self._feed_forward_branch(out)

    def attention_weights(
        self, x: Float[Tensor, "batch tokens dim"]
    ) -> Float[Tensor, "batch heads tokens tokens"]:
        """The attention that this block applies to the tokens `x` that enter it."""
        return self.attn.weights(self.norm1(x))

    def _attention_branch(self, x: Tensor) -> Any:
        return self.ls1(self.attn(self.norm1(x)))

    def _feed_forward_branch(self, x: Tensor) -> Any:
        return self.ls2(self.mlp(self.norm2(x)))
