"""The terms of the training objective, each a pure function, and the centering of the teacher."""

from nexus.losses.centering import (
    Centering,
    SinkhornKnopp,
    SoftmaxCentering,
    build_centering,
    sinkhorn_knopp,
)
from nexus.losses.diagnostics import entropy, kl, likeness_of, prototype_usage, spread_of
from nexus.losses.dino import dino_loss, dino_pair_losses, pair_weights, split_pairs
from nexus.losses.ibot import ibot_loss
from nexus.losses.koleo import koleo_loss
from nexus.losses.prototype_loss import PrototypeLoss, Term, prototype_loss
from nexus.losses.prototypes import Logits, Prototypes, Targets

__all__ = [
    "Centering",
    "Logits",
    "PrototypeLoss",
    "Prototypes",
    "SinkhornKnopp",
    "SoftmaxCentering",
    "Targets",
    "Term",
    "build_centering",
    "dino_loss",
    "dino_pair_losses",
    "entropy",
    "ibot_loss",
    "kl",
    "koleo_loss",
    "likeness_of",
    "pair_weights",
    "prototype_loss",
    "prototype_usage",
    "sinkhorn_knopp",
    "split_pairs",
    "spread_of",
]
