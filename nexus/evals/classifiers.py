"""The classifiers that other evaluations build on: fitted to training features, they score any others."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nexus.config import Config
from nexus.evals.knn import KNNConfig, headline_k, knn_scores
from nexus.evals.linear import LinearConfig, choose_probe
from nexus.evals.logreg import LogRegConfig, choose_penalty
from nexus.evals.mistakes import Guessing, by_logits, by_votes
from nexus.features import Features

Classifier = Callable[[Features], Float[Tensor, "samples classes"]]
"""Scores of all classes for every row, on the CPU; the highest is the guess."""

CHUNK = 1024


@dataclass(frozen=True)
class Fit:
    """How one sort of classifier is fitted."""

    config: type[Config]
    fit: Callable[[Features, Any, int, torch.device], Classifier]
    """From labelled features, settings, the number of classes and a device."""
    guesses: Guessing
    """What its scores mean."""
    layers: Callable[[Any], int] = lambda config: 1
    """How many last blocks it reads."""


def _knn(train: Features, config: KNNConfig, classes: int, device: torch.device) -> Classifier:
    assert train.labels is not None
    bank, labels = train.cls.to(device), train.labels.to(device)
    k = headline_k(config, len(bank))

    def scores(features: Features) -> Float[Tensor, "samples classes"]:
        sizes = [*config.k, k]
        parts = (
            knn_scores(bank, labels, part.to(device), classes, sizes, config.temperature)[k].cpu()
            for part in features.cls.split(CHUNK)
        )
        return torch.cat(list(parts))

    return scores


def _linear(train: Features, config: LinearConfig, classes: int, device: torch.device) -> Classifier:
    chosen = choose_probe((train,), config, classes, device)
    return lambda features: chosen.scores(features, device)


def _logreg(train: Features, config: LogRegConfig, classes: int, device: torch.device) -> Classifier:
    model = choose_penalty(train, config, classes, device).model

    def scores(features: Features) -> Float[Tensor, "samples classes"]:
        return torch.cat([model(part.to(device)).float().cpu() for part in features.cls.split(CHUNK)])

    return scores


FITS: dict[str, Fit] = {
    "knn": Fit(KNNConfig, _knn, by_votes),
    "linear": Fit(LinearConfig, _linear, by_logits, lambda config: max(config.n_last_blocks)),
    "logreg": Fit(LogRegConfig, _logreg, by_logits),
}
