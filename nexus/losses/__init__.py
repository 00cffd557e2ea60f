"""The terms of the training objective, each a pure function, and the centering of the teacher."""

from nexus.losses.centering import (
    Centering,
    SinkhornKnopp,
    SoftmaxCentering,
    build_centering,
    sinkhorn_knopp,
)
from nexus.losses.diagnostics import entropy, kl, prototype_usage
from nexus.losses.dino import dino_loss, dino_pair_losses, split_pairs
from nexus.losses.ibot import ibot_loss
from nexus.losses.koleo import koleo_loss

__all__ = [
    "Centering",
    "SinkhornKnopp",
    "SoftmaxCentering",
    "build_centering",
    "dino_loss",
    "dino_pair_losses",
    "entropy",
    "ibot_loss",
    "kl",
    "koleo_loss",
    "prototype_usage",
    "sinkhorn_knopp",
    "split_pairs",
]
