"""Patch-PCA: the three strongest directions of patch features as red, green and blue (DINOv2, figure 1).

::

    X       = patches of all images, without rare far-away tokens    (tokens, dim)
    axes    = leading 3 eigenvectors of the covariance of X, signs fixed
    colour  = ((x - mean) axes^T - low) / (high - low), clipped to 0..1

One basis for the whole batch makes equal colours mean equal features, in all its pictures. Three
rules keep the pictures stable where people met flipped or washed-out ones:

* Sign. An eigenvector's sign is arbitrary. Each axis is turned so that the middle of the images is
  brighter than their border; where the two are equal, so that its largest coordinate is positive.
* Outliers. ViTs without registers put a few tokens of very large norm on plain background. Tokens more than
  twice as far from the median as 95 % of all tokens are left out of the fit (and coloured like the others).
* Range. Colours run between two percentiles of the projections, not between their extremes.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nexus.errors import ConfigError

FAR = 2.0
RARE = 0.05
TOLERANCE = 1e-6


@dataclass(frozen=True)
class PcaBasis:
    """What turns a patch feature into a colour; fit once, used for any number of pictures."""

    mean: Float[Tensor, " dim"]
    axes: Float[Tensor, "3 dim"]
    low: Float[Tensor, " 3"]
    high: Float[Tensor, " 3"]

    def colors(self, features: Float[Tensor, "*shape dim"]) -> Float[Tensor, "*shape 3"]:
        """Colours in 0..1. An axis without any spread gives 0.5."""
        shifted = features.double().cpu() - self.mean
        spread = self.high - self.low
        flat = spread <= TOLERANCE * spread.max().maximum(self.mean.norm())
        scaled = (shifted @ self.axes.T - self.low) / torch.where(flat, 1.0, spread)
        return torch.where(flat, 0.5, scaled.clamp(0, 1)).float()

    def save(self, path: str | Path) -> None:
        """Write the basis as an `.npz` file, for pictures of another day in the same colours."""
        np.savez(path, mean=self.mean, axes=self.axes, low=self.low, high=self.high)

    @classmethod
    def load(cls, path: str | Path) -> "PcaBasis":
        """Read a basis that `save` wrote."""
        with np.load(path) as table:
            names = ("mean", "axes", "low", "high")
            return cls(**{name: torch.from_numpy(table[name]) for name in names})


def patch_pca(
    features: Float[Tensor, "batch patches dim"],
    rows: int,
    cols: int,
    basis: PcaBasis | None = None,
) -> Float[Tensor, "batch rows cols 3"]:
    """Colours in 0..1 for every patch; equal colours mean equal features all over the batch.

    `features` are patch tokens alone, row-major (no CLS, no registers): `x_norm_patchtokens`. `basis` is
    fit to this batch unless given.
    """
    batch, patches, dim = features.shape
    if patches != rows * cols:
        raise ConfigError(
            f"{patches} patch tokens do not fill {rows} x {cols} patches. "
            "Pass patch tokens alone, without CLS and registers, and their true rows and columns."
        )
    if basis is None:
        basis = fit_basis(features, rows, cols)
    elif basis.mean.numel() != dim:
        raise ConfigError(
            f"The basis is for features of width {basis.mean.numel()}, these have width {dim}. "
            "Fit a basis of their own for the features of another backbone."
        )
    return basis.colors(features).view(batch, rows, cols, 3)


def fit_basis(
    features: Float[Tensor, "batch patches dim"],
    rows: int,
    cols: int,
    percentiles: tuple[float, float] = (1.0, 99.0),
) -> PcaBasis:
    """Mean, axes and colour range of a batch of patch features, in float64 on the CPU."""
    table = features.detach().double().cpu()
    kept = table.flatten(0, 1)
    kept = kept[_usual(kept)]
    mean = kept.mean(dim=0)
    axes = _leading_axes(kept - mean)
    axes = axes * _signs(axes, (table - mean) @ axes.T, _border(rows, cols))[:, None]
    projected = (kept - mean) @ axes.T
    bounds = torch.tensor(percentiles, dtype=torch.float64) / 100
    # numpy: torch.quantile refuses more than 2**24 values.
    low, high = np.quantile(projected.numpy(), bounds.numpy(), axis=0)
    return PcaBasis(mean, axes, torch.from_numpy(low), torch.from_numpy(high))


def _usual(table: Float[Tensor, "tokens dim"]) -> Bool[Tensor, " tokens"]:
    """True for all but rare, far-away tokens; far tokens that are not rare are a region of the image."""
    distance = (table - table.median(dim=0).values).norm(dim=1)
    return distance <= FAR * float(np.quantile(distance.numpy(), 1 - RARE))


def _leading_axes(centered: Float[Tensor, "tokens dim"]) -> Float[Tensor, "3 dim"]:
    """Unit eigenvectors of the three largest eigenvalues of the covariance; zeros where `dim` < 3."""
    _, vectors = torch.linalg.eigh(centered.T @ centered / max(len(centered), 1))
    axes = vectors.flip(1)[:, :3].T
    return torch.cat([axes, axes.new_zeros(3 - len(axes), axes.shape[1])])


def _border(rows: int, cols: int) -> Bool[Tensor, " patches"]:
    grid = torch.ones(rows, cols, dtype=torch.bool)
    grid[1:-1, 1:-1] = False
    return grid.flatten()


def _signs(
    axes: Float[Tensor, "3 dim"],
    projected: Float[Tensor, "batch patches 3"],
    border: Bool[Tensor, " patches"],
) -> Float[Tensor, " 3"]:
    """+1 or -1 for each axis: the middle above the border, else the largest coordinate positive.

    Each image votes with the median of its middle and of its border, so outliers do not.
    """
    largest = axes.gather(1, axes.abs().argmax(dim=1, keepdim=True))[:, 0]
    fallback = torch.where(largest < 0, -1.0, 1.0).double()
    if bool(border.all()):
        return fallback
    middle = projected[:, ~border].median(dim=1).values.mean(dim=0)
    edge = projected[:, border].median(dim=1).values.mean(dim=0)
    rise, scale = middle - edge, projected.abs().amax(dim=(0, 1))
    clear = rise.abs() > TOLERANCE * scale
    return torch.where(clear, rise.sign(), fallback)
