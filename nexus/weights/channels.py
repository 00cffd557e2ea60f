"""A patch embedding for another number of channels than its weights were trained with.

The channels of a model are first normalised, `(x - mean) / std`, then meet the weights `w` of their own.
The rule follows the new number `N`; `C` is the old one, 3 for all released weights:

| N              | new weight of channel `i`                    | mean and std                | exact for   |
|----------------|----------------------------------------------|-----------------------------|-------------|
| 1              | `std' · Σ_c w_c / std_c`; the bias moves too | averages, `mean'` and `std'` | grey images |
| other          | `w[i mod C] · C / N`                         | those of channel `i mod C`  | nothing     |
| with a mapping | what the mapping says, nothing is scaled     | those of the source channel | see below   |

With N = 1 a grey image `g` gives what its copy in C equal channels gave, up to rounding, because
`Σ_c w_c (g - mean_c) / std_c = w' (g - mean') / std' + (bias' - bias)` holds for every `g` with
`bias' = bias + Σ_pixels [w' mean' / std' - Σ_c w_c mean_c / std_c]`. The rule for other numbers is timm's:
equal channels keep the size of the response.

A mapping names the source of every new channel: an index from 0, `"mean"` (the average of all old ones) or
`"zero"` (no influence until it is trained). `[0, 1, 2, "zero"]` leaves the features of RGB as they were.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from nexus.errors import ConfigError

Source = int | Literal["mean", "zero"]
"""Where the weights of a new channel come from."""


@dataclass(frozen=True)
class PatchWeights:
    """The patch embedding of a backbone, and the normalisation that its channels expect (in 0..1)."""

    weight: Float[Tensor, "dim chans patch_height patch_width"]
    bias: Float[Tensor, " dim"]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def carry_channels(
    old: PatchWeights, in_chans: int, mapping: Sequence[Source] | None = None
) -> tuple[PatchWeights, str | None]:
    """The patch embedding for `in_chans` channels and a sentence about it; the same and None for as many.

    The head of this file states the rules. Raises `ConfigError` for a mapping of another length, or one
    that names a channel that is not there.
    """
    chans = old.weight.shape[1]
    if in_chans < 1:
        raise ConfigError(f"in_chans={in_chans} must be at least 1")
    if in_chans == chans and mapping is None:
        return old, None
    if len(old.mean) != chans or len(old.std) != chans:
        raise ConfigError(
            f"the normalisation has {len(old.mean)} means and {len(old.std)} deviations for {chans} channels;"
            " mend `normalization` in the model's config.json"
        )
    if mapping is not None:
        return _mapped(old, in_chans, list(mapping))
    if in_chans == 1:
        return _grey(old), f"patch_embed: {chans} → 1 channel (sum; grey images keep their features)"
    cycle = [channel % chans for channel in range(in_chans)]
    carried = _picked(old, cycle)
    weight = carried.weight * (chans / in_chans)
    sentence = f"patch_embed: {chans} → {in_chans} channels (repeated in turn, × {chans}/{in_chans})"
    return PatchWeights(weight, carried.bias, carried.mean, carried.std), sentence


def _grey(old: PatchWeights) -> PatchWeights:
    mean, std = sum(old.mean) / len(old.mean), sum(old.std) / len(old.std)
    means, stds = (torch.tensor(part, dtype=torch.float64).view(1, -1, 1, 1) for part in (old.mean, old.std))
    per_unit = old.weight.double() / stds
    summed = per_unit.sum(dim=1, keepdim=True)
    bias = old.bias.double() + (per_unit * (mean - means)).sum(dim=(1, 2, 3))
    return PatchWeights((std * summed).to(old.weight.dtype), bias.to(old.bias.dtype), (mean,), (std,))


def _mapped(old: PatchWeights, in_chans: int, mapping: list[Source]) -> tuple[PatchWeights, str]:
    chans = old.weight.shape[1]
    if len(mapping) != in_chans:
        raise ConfigError(f"channels names {len(mapping)} sources for in_chans={in_chans}; name one for each")
    for source in mapping:
        known = source in ("mean", "zero") or (type(source) is int and 0 <= source < chans)
        if not known:
            raise ConfigError(
                f"channels={mapping}: {source!r} is no source; use 0 to {chans - 1}, 'mean' or 'zero'"
            )
    sentence = f"patch_embed: {chans} → {in_chans} channels ({', '.join(map(str, mapping))})"
    return _picked(old, mapping), sentence


def _picked(old: PatchWeights, mapping: Sequence[Source]) -> PatchWeights:
    """New channels by their sources, unscaled."""
    everything = range(old.weight.shape[1])
    weights, means, stds = [], [], []
    for source in mapping:
        among = everything if isinstance(source, str) else (source,)
        weight = old.weight[:, list(among)].mean(dim=1)
        weights.append(torch.zeros_like(weight) if source == "zero" else weight)
        means.append(sum(old.mean[i] for i in among) / len(among))
        stds.append(sum(old.std[i] for i in among) / len(among))
    return PatchWeights(torch.stack(weights, dim=1), old.bias, tuple(means), tuple(stds))


def carry_tensors(
    tensors: dict[str, Tensor],
    normalization: tuple[tuple[float, ...], tuple[float, ...]],
    in_chans: int | None,
    mapping: Sequence[Source] | None = None,
) -> tuple[dict[str, Tensor], tuple[tuple[float, ...], tuple[float, ...]], str | None]:
    """`carry_channels` on the tensors of a backbone: new tensors, its mean and std, and the sentence."""
    weight, bias = tensors["patch_embed.proj.weight"], tensors["patch_embed.proj.bias"]
    if in_chans is None:
        in_chans = weight.shape[1] if mapping is None else len(mapping)
    new, sentence = carry_channels(PatchWeights(weight, bias, *normalization), in_chans, mapping)
    carried = {**tensors, "patch_embed.proj.weight": new.weight, "patch_embed.proj.bias": new.bias}
    return carried, (new.mean, new.std), sentence
