"""Retrieval: every query sorts a gallery by cosine similarity of frozen features; nothing is trained.

The headline is mAP, the mean over queries of their average precision. Beside it: recall@k (is a right image
among the first k), precision@1, and where it applies mAP of every landmark protocol or of every transform.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from nexus.errors import DataError
from nexus.evals.context import EvalContext
from nexus.evals.retrieval.config import RetrievalConfig
from nexus.evals.retrieval.features import search_features
from nexus.evals.retrieval.pictures import draw, from_best_to_worst
from nexus.evals.retrieval.ranking import Ranking
from nexus.evals.retrieval.scoring import answer
from nexus.evals.retrieval.search import Search, open_search
from nexus.evals.task import Task, TaskResult, mean_score

LANDMARK_PRECISIONS = (1, 5, 10)
NEIGHBORS = 6


@dataclass(frozen=True)
class Asked:
    """What one protocol says of every query."""

    rankings: list[Ranking]
    precision: Float[np.ndarray, " queries"]
    """Average precision; NaN for a query that is not counted: unreadable, or without a right image."""

    @property
    def counted(self) -> list[int]:
        """The queries that are."""
        return np.flatnonzero(~np.isnan(self.precision)).tolist()


def run(context: EvalContext, config: RetrievalConfig) -> TaskResult:
    """Search with the features of a context. Raises `DataError` where no query has a right answer."""
    found = open_search(context.data, config, context.limit)
    (queries, no_query), (gallery, not_there) = search_features(context, found, config)
    hidden, unasked = set(not_there), set(no_query)
    missing = [i for i in range(len(gallery)) if found.gallery.name(i) in hidden]
    device = context.device
    answers = answer(
        queries.to(device), gallery.to(device), found.truths, NEIGHBORS, np.array(missing, dtype=np.int64)
    )
    silent = [i for i in range(len(queries)) if found.queries.name(i) in unasked]
    protocols = {}
    for name, rankings in answers.rankings.items():
        precision = np.array([ranking.average_precision(found.trapezoids) for ranking in rankings])
        precision[silent] = np.nan
        protocols[name] = Asked(rankings, precision)
    headline, *others = protocols
    if not protocols[headline].counted:
        raise DataError(f"no query has a right image to find under {headline}: {found.sentence}")
    changes = _by_transform(found, protocols[headline])
    order = from_best_to_worst(protocols[headline].precision, config.shown)
    result = _result(found, protocols[headline], config)
    return replace(
        result,
        unreadable=tuple(dict.fromkeys((*no_query, *not_there))),
        details={**result.details, "protocol": headline, **({"transforms": changes} if changes else {})},
        pictures=lambda: draw(found, answers, order, {name: c["mAP"] for name, c in changes.items()}),
        parts={name: _result(found, protocols[name], config) for name in others if protocols[name].counted},
    )


TASK = Task("retrieval", "images of one group find each other", RetrievalConfig, run)


def _result(found: Search, asked: Asked, config: RetrievalConfig) -> TaskResult:
    counted = asked.counted
    rankings = [asked.rankings[i] for i in counted]
    precision = torch.from_numpy(asked.precision[counted])
    return TaskResult(
        metric="mAP",
        value=float(precision.mean()),
        names=tuple(found.queries.name(i) for i in counted),
        score=mean_score(precision),
        chance=_mean([ranking.expected(found.trapezoids) for ranking in rankings]),
        chance_means="the gallery in random order",
        split=found.sentence,
        details={
            "mAP": float(precision.mean()),
            "recall": {str(k): _mean([ranking.found(k) for ranking in rankings]) for k in config.recall},
            "precision": {
                str(k): _mean([ranking.precision(k) for ranking in rankings])
                for k in (LANDMARK_PRECISIONS if found.trapezoids else (1,))
            },
            "gallery": len(found.gallery),
            "queries_without_answer": len(asked.rankings) - len(counted),
            **found.facts,
        },
    )


def _by_transform(found: Search, asked: Asked) -> dict[str, dict[str, Any]]:
    """mAP and number of the copies that were changed in each way."""
    counted = asked.counted
    return {
        name: {"mAP": _mean(values), "queries": len(values)}
        for name in sorted(set(found.transforms))
        if (values := [float(asked.precision[i]) for i in counted if found.transforms[i] == name])
    }


def _mean(values: list[float] | list[bool]) -> float:
    return float(np.mean(values))
