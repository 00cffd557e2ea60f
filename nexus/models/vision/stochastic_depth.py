"""Stochastic depth: in training a branch of a block leaves out some of the images, and the work for them.

As in the official training code (DINOv2, §5 of arXiv 2304.07193), the branch is not multiplied by zero: it
sees only a random subset of the images, of exact size, so the time saved is about `rate`. ::

    chosen = `kept` of the `batch` images, at random, kept = max(int(batch · (1 - rate)), 1)
    x[chosen] += batch / kept · branch(x[chosen])

The factor keeps the expectation: averaged over draws the result is `x + branch(x)`. Unlike with per-sample
coin flips the count, and with it memory and factor, is the same in every step. Crops of several sizes
(groups) go through a branch together, and each group has a subset of its own. Random numbers come from
torch's global generator of the device.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

Subset = Int[Tensor, " _"] | None
"""The images of a group that a branch computes; None: all of them."""

Branch = Callable[[Sequence[Tensor]], Sequence[Tensor]]
"""A residual branch: tokens (images, tokens, dim) of every group in, tokens of the same shapes out."""


def kept_samples(batch: int, rate: float) -> int:
    """How many of `batch` images a branch computes at stochastic-depth rate `rate`: at least one."""
    return max(int(batch * (1.0 - rate)), 1)


def draw_subset(batch: int, rate: float, device: torch.device) -> Subset:
    """A random subset of `batch` images for one branch at `rate` in [0, 1)."""
    kept = kept_samples(batch, rate)
    if rate == 0.0 or kept == batch:
        return None
    return torch.randperm(batch, device=device)[:kept]


def chosen_images(
    groups: Sequence[Float[Tensor, "_ _ dim"]], subsets: Sequence[Subset]
) -> list[Float[Tensor, "_ _ dim"]]:
    """What a branch sees of each group."""
    pairs = zip(groups, subsets, strict=True)
    return [x if chosen is None else x.index_select(0, chosen) for x, chosen in pairs]


def add_branch(
    groups: Sequence[Float[Tensor, "_ _ dim"]], branch: Branch, subsets: Sequence[Subset]
) -> list[Float[Tensor, "_ _ dim"]]:
    """`x + branch(x)` for every group, where the branch sees the chosen images of all groups at once."""
    residuals = branch(chosen_images(groups, subsets))
    added = []
    for x, chosen, residual in zip(groups, subsets, residuals, strict=True):
        if chosen is None:
            added.append(x + residual)
        else:
            scale = len(x) / len(chosen)
            added.append(torch.index_add(x, 0, chosen, residual.to(x.dtype), alpha=scale))
    return added


def slots(
    subset: Subset, batch: int, device: torch.device
) -> tuple[Int[Tensor, " batch"], Float[Tensor, "batch 1"]]:
    """Each image's place in what the branch sees, and the factor of its residual.

    An image that is left out has place 0 and factor 0.
    """
    if subset is None:
        return torch.arange(batch, device=device), torch.ones(batch, 1, device=device)
    places = torch.zeros(batch, dtype=torch.long, device=device)
    places = places.index_copy(0, subset, torch.arange(len(subset), device=device))
    return places, torch.zeros(batch, 1, device=device).index_fill(0, subset, batch / len(subset))
