"""The two losses of depth, on pixels that were measured.

::

    g        = log(predicted + eps) - log(true + eps)              at the measured pixels of the batch
    sig      = sqrt(var(g) + 0.15 mean(g)^2)                       Eigen et al. 2014, as in AdaBins
    gradient = sum over scales of [ sum |g(y, x) - g(y + 2, x)| + sum |g(y, x) - g(y, x + 2)| ] / measured

A pixel is measured where 0 < true <= max_depth. The scales keep every pixel, every 2nd, 4th and 6th
(MegaDepth).
The official gradient loss cuts the first two axes of a tensor of four, which are images and channels there,
so
that it compares pictures with each other and nothing within one; ours compares pixels, as in the paper.
"""

import torch
from jaxtyping import Float
from torch import Tensor

EPS = 1e-3
MEAN_WEIGHT = 0.15
GRADIENT_WEIGHT = 0.5
STRIDES = (1, 2, 4, 6)
_TINY = 1e-12
"""Under the root, so that a perfect prediction has a gradient."""


def sig_loss(
    predicted: Float[Tensor, "batch height width"],
    true: Float[Tensor, "batch height width"],
    max_depth: float,
) -> Float[Tensor, ""]:
    """The scale-invariant loss over all measured pixels of a batch; 0 where fewer than two were measured."""
    measured = (true > 0) & (true <= max_depth)
    error = torch.log(predicted[measured] + EPS) - torch.log(true[measured] + EPS)
    if error.numel() < 2:
        return 0.0 * predicted.sum()
    return torch.sqrt(error.var() + MEAN_WEIGHT * error.mean() ** 2 + _TINY)


def gradient_loss(
    predicted: Float[Tensor, "batch height width"],
    true: Float[Tensor, "batch height width"],
    max_depth: float,
) -> Float[Tensor, ""]:
    """Differences of the log error between pixels two apart, down and across, at four scales."""
    total = 0.0 * predicted.sum()
    for stride in STRIDES:
        guess, truth = predicted[:, ::stride, ::stride], true[:, ::stride, ::stride]
        measured = (truth > 0) & (truth <= max_depth)
        error = torch.where(measured, torch.log(guess + EPS) - torch.log(truth.clamp(min=0) + EPS), 0.0)
        down = (error[:, :-2] - error[:, 2:]).abs() * (measured[:, :-2] & measured[:, 2:])
        across = (error[:, :, :-2] - error[:, :, 2:]).abs() * (measured[:, :, :-2] & measured[:, :, 2:])
        total = total + (down.sum() + across.sum()) / measured.sum().clamp(min=1)
    return total


def depth_loss(
    predicted: Float[Tensor, "batch height width"],
    true: Float[Tensor, "batch height width"],
    max_depth: float,
) -> Float[Tensor, ""]:
    """`sig_loss` + 0.5 `gradient_loss`."""
    return sig_loss(predicted, true, max_depth) + GRADIENT_WEIGHT * gradient_loss(predicted, true, max_depth)
