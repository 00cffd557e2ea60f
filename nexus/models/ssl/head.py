"""`DINOv2Head`: features → MLP → bottleneck on the unit sphere → prototypes."""

import warnings
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from nexus.errors import ConfigError
from nexus.losses import Prototypes


class WeightNormLinear(nn.Module):
    """Linear layer without bias whose row k is `weight_g[k] * weight_v[k] / |weight_v[k]|`.

    Weight normalisation (arXiv 1602.07868). Parameters are called and shaped as PyTorch's first
    `weight_norm` does, which released heads use: `weight_g` (out, 1) and `weight_v` (out, in).
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight_g = nn.Parameter(torch.empty(out_features, 1))
        self.weight_v = nn.Parameter(torch.empty(out_features, in_features))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """`weight_v` ~ U(±1/√in), `weight_g` = 1: rows of length one in random directions."""
        bound = self.weight_v.shape[1] ** -0.5
        nn.init.uniform_(self.weight_v, -bound, bound)
        nn.init.ones_(self.weight_g)

    @property
    def weight(self) -> Float[Tensor, "prototypes bottleneck"]:
        """The effective weight, computed in at least float32, in the dtype of the parameters."""
        v, g = _at_least_float32(self.weight_v), _at_least_float32(self.weight_g)
        return torch._weight_norm(v, g, 0).to(self.weight_v.dtype)

    def forward(self, x: Float[Tensor, "... bottleneck"]) -> Float[Tensor, "... prototypes"]:
        """`x @ weight.T`."""
        return F.linear(x, self.weight)


class DINOv2Head(nn.Module):
    """Projection head of DINOv2, for CLS tokens and for masked patches alike.

    ::

        Linear(in → hidden) GELU [Linear(hidden → hidden) GELU]* Linear(hidden → bottleneck)
        x / max(|x|, eps)
        WeightNormLinear(bottleneck → out)

    so a logit is a cosine times the prototype's `weight_g`, which starts at 1 and is trained.
    Official keys: `mlp.{0,2,4}.{weight,bias}` (`mlp.{weight,bias}` where `nlayers` is 1),
    `last_layer.weight_g`, `last_layer.weight_v`. eps is 1e-12, and 1e-6 for float16 (official
    code); the length itself is taken in float32.

    `output="seed"` is the head that the seed document prints: no bottleneck, and the `out_dim`
    outputs themselves L2-normalised. It is kept for comparison and warns: with K prototypes its
    logits start at about ±1/√K and none exceeds 1, so the student can hardly prefer a prototype.

    Args:
        in_dim: features of a token.
        hidden_dim: width of the hidden layers.
        out_dim: prototypes K.
        bottleneck_dim: width of the unit sphere; unused by `output="seed"`.
        nlayers: linear layers before the prototypes, >= 1 (all the layers for `output="seed"`).
        output: `weight_norm` (official) or `seed`.
    """

    def __init__(
        self,
        in_dim: int,
        hidden_dim: int = 2048,
        out_dim: int = 65536,
        bottleneck_dim: int = 256,
        nlayers: int = 3,
        *,
        output: Literal["weight_norm", "seed"] = "weight_norm",
    ) -> None:
        super().__init__()
        if nlayers < 1:
            raise ConfigError(f"a head needs at least one layer, got nlayers={nlayers}; try 3")
        self.last_layer: WeightNormLinear | None = None
        if output == "seed":
            self.mlp = _mlp(in_dim, hidden_dim, out_dim, nlayers)
            warnings.warn(
                "DINOv2Head(output='seed') normalises the prototype logits, so the loss has a high "
                "floor; it is kept for comparison only. Use output='weight_norm' to train.",
                UserWarning,
                stacklevel=2,
            )
        else:
            self.mlp = _mlp(in_dim, hidden_dim, bottleneck_dim, nlayers)
            self.last_layer = WeightNormLinear(bottleneck_dim, out_dim)
        self._init_mlp()

    def reset_parameters(self) -> None:
        """Official start: linear weights truncated normal (0.02), biases 0, unit prototypes."""
        self._init_mlp()
        if self.last_layer is not None:
            self.last_layer.reset_parameters()

    def _init_mlp(self) -> None:
        for module in self.mlp.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: Float[Tensor, "... in_dim"]) -> Float[Tensor, "... out_dim"]:
        """Prototype logits of each feature."""
        x = self.bottleneck(x)
        return x if self.last_layer is None else self.last_layer(x)

    def bottleneck(self, x: Float[Tensor, "... in_dim"]) -> Float[Tensor, "... bottleneck"]:
        """What the prototypes are compared with: `forward(x) = bottleneck(x) @ prototypes.T`."""
        return _unit(self.mlp(x))

    @property
    def prototypes(self) -> Float[Tensor, "prototypes bottleneck"] | None:
        """The effective weight of the last layer, computed anew at each call; none for `output="seed"`."""
        return None if self.last_layer is None else self.last_layer.weight

    def shared_prototypes(self) -> Prototypes | None:
        """`prototypes` as they are now, for several tables of logits."""
        weight = self.prototypes
        return None if weight is None else Prototypes(weight)


def _mlp(in_dim: int, hidden_dim: int, out_dim: int, layers: int) -> nn.Module:
    """`layers` linear layers with GELU between; a single one is not wrapped (official keys)."""
    widths = [in_dim, *[hidden_dim] * (layers - 1), out_dim]
    linear = [nn.Linear(a, b) for a, b in pairwise(widths)]
    if layers == 1:
        return linear[0]
    parts: list[nn.Module] = [linear[0]]
    for layer in linear[1:]:
        parts += [nn.GELU(), layer]
    return nn.Sequential(*parts)


def _unit(x: Tensor) -> Tensor:
    """`x` at length one, in its own dtype; the length is taken in at least float32."""
    eps = 1e-6 if x.dtype == torch.float16 else 1e-12
    return F.normalize(_at_least_float32(x), dim=-1, eps=eps).to(x.dtype)


def _at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
