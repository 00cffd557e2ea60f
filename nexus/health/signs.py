"""Vital signs of features: how many directions they use, how far apart they lie, who finds whom.

Each is a pure function of one table of features, in float32, without gradients. None needs labels.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

EPS = 1e-7
"""Added to shares before their logarithm, as in RankMe."""


@torch.no_grad()
def rankme(features: Float[Tensor, "samples dim"]) -> float:
    """RankMe: how many directions the features use, from 1 to min(samples, dim).

    ::

        p   = singular values / their sum
        out = exp(-sum p log p)

    Garrido et al. 2023 (arXiv 2210.02885), equation 1: not centred, so one direction that all images share
    counts like any other. 0 for a table of zeros.
    """
    return _spread(torch.linalg.svdvals(_full(features)))


@torch.no_grad()
def effective_rank(features: Float[Tensor, "samples dim"]) -> float:
    """How many directions tell images apart: the same of the eigenvalues of the covariance.

    Roy and Vetterli 2007. Centred, so what all images share does not count; and of variances, so that small
    directions count for little. 0 where all rows are equal.
    """
    x = _full(features)
    values = torch.linalg.svdvals(x - x.mean(dim=0))
    floor = EPS * x.norm()  # what is left of equal rows is rounding
    return _spread(torch.where(values > floor, values, 0.0).square())


def _spread(values: Tensor) -> float:
    """exp of the entropy of values taken as shares."""
    total = float(values.sum())
    if not math.isfinite(total) or total <= 0.0:
        return 0.0
    return float(torch.special.entr(values / total).sum().exp())


@torch.no_grad()
def alpha_req(features: Float[Tensor, "samples dim"]) -> float:
    """α-ReQ: the slope at which the eigenvalues of the covariance fall, on a doubly logarithmic scale.

    Agrawal et al. 2022 (NeurIPS): eigenvalue number i is about i^-α; α near 1 is claimed to be best, a large
    α means few directions. A straight line through the eigenvalues that are not noise, by least squares. 0 if
    there are fewer than three.
    """
    x = _full(features)
    values = torch.linalg.svdvals(x - x.mean(dim=0)).square()
    values = values[values > EPS * values.max().clamp(min=1e-30)]
    if len(values) < 3:
        return 0.0
    place = torch.arange(1, len(values) + 1, dtype=values.dtype, device=values.device).log()
    place = place - place.mean()
    return -float((place @ values.log()) / (place @ place))


@torch.no_grad()
def lidar(
    first: Float[Tensor, "samples dim"], second: Float[Tensor, "samples dim"], delta: float = 1e-4
) -> float:
    """LiDAR-like: how many directions tell images apart and do not depend on the crop.

    ::

        mean[i] = (first[i] + second[i]) / 2
        B       = covariance of the means           W = covariance of crops around their mean + delta · scale
        out     = exp of the entropy of the eigenvalues of W^-1/2 B W^-1/2

    Thilak et al. 2024 (arXiv 2312.04000), with two crops an image instead of 50; `delta` is relative to the
    mean variance, so the answer does not depend on the scale of the features.
    """
    a, b = _full(first), _full(second)
    mean, half = (a + b) / 2, (a - b) / 2
    mean = mean - mean.mean(dim=0)
    within = half.T @ half / len(a)
    scale = (within.diagonal().mean() + mean.square().mean()).clamp(min=1e-12)
    within.diagonal().add_(delta * scale)
    values, vectors = torch.linalg.eigh(within)
    white = mean @ vectors / values.clamp(min=1e-30).sqrt()
    return _spread(torch.linalg.svdvals(white).square())


@torch.no_grad()
def nearest_distance(features: Float[Tensor, "samples dim"]) -> float:
    """Mean distance of a feature of length one to its nearest other one, from 0 to 2: what KoLeo widens."""
    x = F.normalize(_full(features), dim=1)
    if len(x) < 2:
        return 0.0
    cosine = x @ x.T
    cosine.fill_diagonal_(-2.0)
    return float((2.0 - 2.0 * cosine.amax(dim=1)).clamp(min=0.0).sqrt().mean())


@torch.no_grad()
def retrieval(first: Float[Tensor, "samples dim"], second: Float[Tensor, "samples dim"]) -> float:
    """Share of the images whose first crop finds its own second crop among all second crops, by cosine.

    Features are centred first, so a direction that all share does not drown the rest. A tie counts as
    a miss, so equal features score 0. Chance is 1 / samples.
    """
    both = torch.cat([_full(first), _full(second)])
    a, b = F.normalize(both - both.mean(dim=0), dim=1).chunk(2)
    cosine = a @ b.T
    own = cosine.diagonal().clone()
    cosine.fill_diagonal_(-2.0)
    return float((own > cosine.amax(dim=1) + EPS).float().mean())


@torch.no_grad()
def outliers(patches: Float[Tensor, "samples patches dim"]) -> float:
    """Share of the patches that are longer than the median by six times the usual deviation from it.

    The artefacts of Darcet et al. (arXiv 2309.16588). The usual deviation is the median one, at least 1 % of
    the median: in a normal distribution one patch in 20,000 lies so far out.
    """
    norms = _full(patches.flatten(0, 1)).norm(dim=1)
    middle = norms.median()
    usual = (norms - middle).abs().median().clamp(min=0.01 * float(middle))
    return float((norms > middle + 6.0 * usual).float().mean())


@torch.no_grad()
def prototypes_in_use(probs: Float[Tensor, "rows prototypes"]) -> float:
    """How many prototypes share the answers: exp of the entropy of the mean answer, from 1 to prototypes."""
    return _spread(_full(probs).mean(dim=0))


@torch.no_grad()
def disagreement(first: Float[Tensor, "samples dim"], second: Float[Tensor, "samples dim"]) -> float:
    """Relative distance of two tables that ought to be the same: 0 for a network without randomness."""
    a, b = _full(first), _full(second)
    return float((a - b).norm() / b.norm().clamp(min=1e-12))


def _full(x: Tensor) -> Tensor:
    return x.detach().float()
