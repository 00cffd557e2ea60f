"""What tells a collapse from learning, from the tensors of a step: entropy, usage, spread."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from nexus.losses.cross_entropy import cross_entropy
from nexus.losses.numerics import full_dtype, row_slices


@torch.no_grad()
def entropy(probs: Float[Tensor, "rows prototypes"]) -> Float[Tensor, ""]:
    """Mean over rows of `-sum p log p`, in nats.

    0 for one-hot rows, ln(prototypes) for uniform ones; 0 where there are no rows.
    """
    rows, prototypes = probs.shape
    dtype = full_dtype(probs.dtype)
    total = torch.zeros((), dtype=dtype, device=probs.device)
    for part in row_slices(rows, prototypes):
        total += torch.special.entr(probs[part].to(dtype)).sum()
    return total / max(1, rows)


@torch.no_grad()
def kl(
    teacher_probs: Float[Tensor, "rows prototypes"],
    student_logits: Float[Tensor, "rows prototypes"],
    student_temp: float = 0.1,
) -> Float[Tensor, ""]:
    """Mean over rows of `KL(teacher || softmax(student / student_temp))`, in nats; 0 if no rows."""
    losses = cross_entropy(student_logits[None], teacher_probs[None], student_temp)
    return losses.sum() / max(1, len(teacher_probs)) - entropy(teacher_probs)


@torch.no_grad()
def prototype_usage(probs: Float[Tensor, "rows prototypes"]) -> Float[Tensor, ""]:
    """Share of the prototypes that are the likeliest one of at least one row, in 0..1."""
    used = torch.zeros(probs.shape[1], dtype=torch.float32, device=probs.device)
    used[probs.argmax(dim=1)] = 1.0
    return used.mean()


@torch.no_grad()
def spread_of(features: Float[Tensor, "crops dim"]) -> Float[Tensor, ""]:
    """Mean standard deviation of a dimension over crops, over the root mean square of all values, in 0..1.

    0 where all crops have the same features. In float32.
    """
    x = features.detach().float()
    return x.std(dim=0, correction=0).mean() / x.square().mean().sqrt().clamp(min=1e-12)


@torch.no_grad()
def likeness_of(features: Float[Tensor, "crops dim"]) -> Float[Tensor, ""]:
    """Mean cosine between two different crops, in -1..1; 1 where all point the same way. In float32."""
    x = F.normalize(features.detach().float(), dim=1)
    rows = len(x)
    return (x.sum(dim=0).square().sum() - rows) / max(rows * (rows - 1), 1)
