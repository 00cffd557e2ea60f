"""Several heads trained at once on the same batches; each gets the gradient that it would get alone."""

from collections.abc import Callable, Iterable, Sequence

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from nexus.errors import RunError
from nexus.evals.dense.maps import Maps

Loss = Callable[[Tensor, Tensor], Tensor]
"""From a head's output and the truth of a batch to one number."""


def rate_factor(step: int, steps: int, warmup: float) -> float:
    """Linear from 0 during the first `warmup` share of the steps, times linear to 0 at the end (poly 1)."""
    rise = min(1.0, (step + 1) / max(1.0, warmup * steps))
    return rise * (1 - step / steps)


def train_heads(
    heads: Sequence[nn.Module],
    rates: Sequence[float],
    batches: Iterable[tuple[Maps, Shaped[Tensor, "batch height width"]]],
    steps: int,
    loss: Loss,
    *,
    weight_decay: float,
    warmup: float,
    clip: float | None = None,
) -> None:
    """AdamW (0.9, 0.999), one learning rate per head. Raises `RunError` where no head has a finite loss.

    A head whose rate makes it diverge is left as it is then; the choice on held-out images drops it.
    """
    groups = [
        {"params": list(head.parameters()), "lr": rate} for head, rate in zip(heads, rates, strict=True)
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=weight_decay)
    for head in heads:
        head.train()
    for step, (maps, truth) in enumerate(batches):
        factor = rate_factor(step, steps, warmup)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor
        values = torch.stack([loss(head(maps), truth) for head in heads])
        sound = values.isfinite()
        if not bool(sound.any()):
            raise RunError(
                f"the loss of every head is not a number at step {step}; give smaller learning_rates"
            )
        optimizer.zero_grad(set_to_none=True)
        values[sound].sum().backward()
        for head in heads:
            if clip is not None:
                nn.utils.clip_grad_norm_(head.parameters(), clip)
        optimizer.step()
    for head in heads:
        head.eval()
