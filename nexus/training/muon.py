"""Muon for the matrices inside the networks, AdamW for everything else, behind the face of one optimizer.

Muon takes the momentum of a matrix's gradient and steps in the direction of its nearest orthogonal matrix, so
that no direction is left behind (Jordan et al. 2024; the step has the size of AdamW's, Liu et al. 2025, "Muon
is Scalable for LLM Training", so that learning rates and weight decay keep their meaning). What is not a map
between hidden features stays with AdamW: patch embedding, tokens, position embedding, prototypes, vectors.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

_APART = ("patch_embed", "token", "pos_embed", "last_layer")


def is_hidden_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter of a network maps hidden features to hidden features."""
    return parameter.ndim == 2 and not any(word in name for word in _APART)


class MuonAndAdamW(torch.optim.Optimizer):
    """Both optimizers. Their groups and states are those of this one; a group says in `muon` whose it is."""

    def __init__(self, groups: list[dict[str, Any]], betas: tuple[float, float], *, fused: bool) -> None:
        matrices = [group for group in groups if group["muon"]]
        others = [group for group in groups if not group["muon"]]
        self.parts: tuple[torch.optim.Optimizer, ...] = (
            torch.optim.Muon(matrices, lr=0.0, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=0.0, betas=betas, fused=fused, foreach=not fused),
        )
        super().__init__([group for part in self.parts for group in part.param_groups], {"fused": False})
        for part in self.parts:
            part.state = self.state
        self.parts[0].param_groups = self.param_groups[: len(matrices)]
        self.parts[1].param_groups = self.param_groups[len(matrices) :]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """A step of each."""
        assert closure is None, "not supported"
        for part in self.parts:
            part.step()
