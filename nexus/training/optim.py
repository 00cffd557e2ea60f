"""Parameter groups and the optimizer, by the rules of the official DINOv2 code.

| parameter                                        | learning rate ×                    | weight decay |
|--------------------------------------------------|------------------------------------|--------------|
| patch embedding                                  | decay^(L+1) × `patch_embed_lr`     | as below     |
| CLS, registers, mask token, position embedding   | decay^(L+1)                        | as below     |
| block i (0 .. L-1)                               | decay^(L-i)                        | as below     |
| final norm, heads                                | 1                                  | as below     |
| `last_layer.*` of the heads                      | 1, and 0 while frozen              | as below     |

Weight decay is off iff the name ends in `.bias` or contains `norm` or `gamma`; tokens, position embedding
and `weight_g` are decayed.
"""

import math
from collections.abc import Iterable
from typing import Annotated, Literal

import torch
from jaxtyping import Bool
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from nexus.config import Config
from nexus.models.ssl.base import BaseSSL
from nexus.training.muon import MuonAndAdamW, is_hidden_matrix

LEARNING_RATE_RULES = {
    "sqrt_1024": lambda batch: math.sqrt(batch / 1024),
    "linear_256": lambda batch: batch / 256,
    "none": lambda batch: 1.0,
}
_FIRST = ("cls_token", "pos_embed", "mask_token", "register_tokens", "patch_embed")

Beta = Annotated[float, Field(ge=0, lt=1)]


class OptimConfig(Config):
    """The optimizer, its learning rate and weight decay over the run."""

    optimizer: Literal["adamw", "muon"] = "adamw"
    """`muon`: Muon for the matrices inside backbone and heads; the rest stays with AdamW."""
    lr: NonNegativeFloat = 4e-3
    """Peak learning rate before scaling by the batch."""
    lr_scaling: Literal["sqrt_1024", "linear_256", "none"] = "sqrt_1024"
    """How the peak grows with the global batch: × sqrt(batch / 1024), × batch / 256, or not at all."""
    min_lr: NonNegativeFloat = 1e-6
    """Learning rate at the end of the cosine."""
    warmup_steps: NonNegativeInt = 12_500
    """Steps of linear warm-up."""
    weight_decay: NonNegativeFloat = 0.04
    """Weight decay at the start."""
    weight_decay_end: NonNegativeFloat = 0.4
    """Weight decay at the end of its cosine."""
    beta1: Beta = 0.9
    """AdamW's first momentum."""
    beta2: Beta = 0.999
    """AdamW's second momentum."""
    clip_grad: NonNegativeFloat = 3.0
    """Largest gradient norm, for each network separately; 0 switches clipping off."""
    layer_decay: PositiveFloat = 0.9
    """Learning rate factor from one layer to the one before it."""
    patch_embed_lr: NonNegativeFloat = 0.2
    """Extra learning rate factor of the patch embedding."""
    freeze_last_layer_steps: NonNegativeInt = 1250
    """Steps at the start during which the prototypes do not move."""

    def peak_lr(self, batch: int) -> float:
        """The learning rate after warm-up for a global batch."""
        return self.lr * LEARNING_RATE_RULES[self.lr_scaling](batch)


def parameter_groups(model: BaseSSL, config: OptimConfig) -> list[dict]:
    """Every trainable parameter in exactly one group; equal rules share a group."""
    groups: dict[tuple[float, float, bool, bool], dict] = {}
    for network, module in model.trained_networks().items():
        depth = len(module.blocks) if network == "backbone" else 0  # type: ignore[arg-type]
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                continue
            rate = learning_rate_multiplier(name, depth, config) if network == "backbone" else 1.0
            decay = 0.0 if _undecayed(name) else 1.0
            last = "last_layer" in name
            muon = config.optimizer == "muon" and is_hidden_matrix(name, parameter)
            rules = {"lr_multiplier": rate, "wd_multiplier": decay, "last_layer": last, "muon": muon}
            group = groups.setdefault((rate, decay, last, muon), {"params": [], **rules})
            group["params"].append(parameter)
    return list(groups.values())


def learning_rate_multiplier(name: str, depth: int, config: OptimConfig) -> float:
    """Layer decay of one backbone parameter; `depth` is the number of blocks L."""
    if name.startswith(_FIRST):
        layer = 0
    elif name.startswith("blocks."):
        layer = int(name.split(".")[1]) + 1
    else:
        layer = depth + 1
    rate = config.layer_decay ** (depth + 1 - layer)
    return rate * config.patch_embed_lr if name.startswith("patch_embed") else rate


def _undecayed(name: str) -> bool:
    return name.endswith(".bias") or "norm" in name or "gamma" in name


def build_optimizer(model: BaseSSL, config: OptimConfig) -> torch.optim.Optimizer:
    """The optimizer over all groups; learning rates are set anew at each step by `set_rates`."""
    groups, betas = parameter_groups(model, config), (config.beta1, config.beta2)
    fused = all(p.device.type in ("cuda", "cpu") for group in groups for p in group["params"])
    if config.optimizer == "muon":
        return MuonAndAdamW(groups, betas, fused=fused)
    return torch.optim.AdamW(groups, lr=0.0, betas=betas, fused=fused, foreach=not fused)


def set_rates(
    optimizer: torch.optim.Optimizer, *, lr: float, last_layer_lr: float, weight_decay: float
) -> None:
    """Give each group this step's learning rate and weight decay, times its multipliers."""
    for group in optimizer.param_groups:
        base = last_layer_lr if group["last_layer"] else lr
        group["lr"] = base * group["lr_multiplier"]
        group["weight_decay"] = weight_decay * group["wd_multiplier"]


def gradient_norms(networks: dict[str, nn.Module], clip: float) -> dict[str, Tensor]:
    """Gradient norm of each network before clipping; clips each to `clip` where that is above 0."""
    norms = {}
    for name, network in networks.items():
        parameters: Iterable[Tensor] = [p for p in network.parameters() if p.grad is not None]
        limit = clip if clip > 0 else math.inf
        norm = torch.nn.utils.clip_grad_norm_(parameters, limit)
        norms[name] = norm.full_tensor() if isinstance(norm, DTensor) else norm  # of all slices
    return norms


def step_where(finite: Bool[Tensor, ""], optimizer: torch.optim.Optimizer) -> None:
    """`optimizer.step()` where `finite` is true; else parameters, moments and step counts stay.

    Fused optimizers look at a flag on the device, as for loss scaling. Others (Muon) wait for the answer.
    """
    if not optimizer.defaults["fused"]:
        if finite:
            optimizer.step()
        return
    optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
    optimizer.step()
    del optimizer.found_inf  # type: ignore[attr-defined]
