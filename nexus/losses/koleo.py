"""KoLeo regulariser: spreads the features of a batch by pushing nearest neighbours apart.

Sablayrolles et al. 2019 (arXiv 1806.03198), equation 5, as in the official DINOv2 code.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from nexus.losses.numerics import full_dtype, no_autocast

EPS = 1e-8


def koleo_loss(features: Float[Tensor, "batch dim"]) -> Float[Tensor, ""]:
    """Minus the mean log distance of each L2-normalised feature to its nearest neighbour.

    ::

        x = features / max(|features|, eps)
        for b in batch:
            n = argmax over c != b of x[b] · x[c]
            d[b] = | x[b] - x[n] + eps |
        loss = -mean(log(d + eps))          eps = 1e-8

    Call it on the student's CLS features of one crop; it gathers nothing (`koleo_over_all` in
    `nexus.models.ssl.objective` does). Gradient reaches both ends of a pair. Computed in float32
    (float64 stays): in half precision eps is 0 and two equal features would give infinity. Fewer
    than two features have no neighbour: the loss is then 0, still attached to the graph.
    """
    with no_autocast(features.device):
        x = features.to(full_dtype(features.dtype))
        if len(x) < 2:
            return x.sum() * 0.0
        x = F.normalize(x, dim=1, eps=EPS)
        gap = x - x[nearest_neighbours(x.detach())] + EPS
        return -(gap.norm(dim=1) + EPS).log().mean()


def nearest_neighbours(x: Float[Tensor, "batch dim"]) -> Int[Tensor, " batch"]:
    """Row number of the largest dot product with each row, itself excluded.

    The official code excludes a row by giving it the cosine -1, which an exactly opposite
    neighbour does not beat; -infinity settles that case too.
    """
    cosine = x @ x.T
    cosine.fill_diagonal_(float("-inf"))
    return torch.argmax(cosine, dim=1)
