"""PCA whitening: the directions in which training features vary, scaled to vary equally.

::

    x -> (x - mean) V / sqrt(eigenvalue)          V: the leading eigenvectors of the covariance

Learned on training images alone (Jégou and Chum 2012). Rows are brought to length 1 before.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from nexus.errors import ConfigError


@dataclass(frozen=True)
class Whitening:
    """A learned change of coordinates."""

    mean: Float[Tensor, " dim"]
    project: Float[Tensor, "dim kept"]

    def __call__(self, rows: Float[Tensor, "samples dim"]) -> Float[Tensor, "samples kept"]:
        """Rows of any length, whitened."""
        return (F.normalize(rows.double(), dim=1) - self.mean).float() @ self.project.float()


def learn_whitening(rows: Float[Tensor, "samples dim"], kept: int) -> Whitening:
    """Learn from training rows; `ConfigError` where they have fewer than `kept` directions."""
    unit = F.normalize(rows.double(), dim=1)
    mean = unit.mean(dim=0)
    values, vectors = torch.linalg.eigh(torch.cov((unit - mean).T, correction=0))
    values, vectors = values.flip(0), vectors.flip(1)
    varying = int((values > values[0].clamp_min(1e-12) * 1e-9).sum())
    if kept > varying:
        raise ConfigError(
            f"whiten={kept}, but {len(rows):,} training images vary in {varying} directions only; "
            f"use at most {varying}"
        )
    return Whitening(mean, vectors[:, :kept] / values[:kept].sqrt())
