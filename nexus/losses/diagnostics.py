"""What tells a collapse from learning: entropy of the targets, distance to them, usage."""

import torch
from jaxtyping import Float
from torch import Tensor

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
