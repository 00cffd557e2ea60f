"""Every query against the whole gallery: AP, recall and the nearest images, a block of queries at a time."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from nexus.evals.retrieval.ranking import Ranking, rank
from nexus.evals.retrieval.truth import Truth

BLOCK_NUMBERS = 1 << 24
"""Similarities held at once: 64 MiB."""


@dataclass(frozen=True)
class Answers:
    """What a search gave, query by query."""

    rankings: dict[str, list[Ranking]]
    """By the name of a protocol."""
    nearest: Int[np.ndarray, "queries neighbors"]
    """Rows of the gallery, nearest first, without those that the first protocol ignores; -1 past the end."""
    similarity: Float[np.ndarray, "queries neighbors"]


def answer(
    queries: Float[Tensor, "queries dim"],
    gallery: Float[Tensor, "gallery dim"],
    truths: dict[str, Truth],
    shown: int = 6,
    missing: Int[np.ndarray, " missing"] | None = None,
) -> Answers:
    """Sort the gallery by cosine similarity for every query, on the device of the features.

    `missing` are rows of the gallery that could not be read; they are ignored by every query.
    """
    queries, gallery = F.normalize(queries.float(), dim=1), F.normalize(gallery.float(), dim=1)
    rankings: dict[str, list[Ranking]] = {name: [] for name in truths}
    nearest, values = [], []
    first = next(iter(truths))
    shown = min(shown, len(gallery))
    block = max(1, BLOCK_NUMBERS // max(len(gallery), 1))
    for start in range(0, len(queries), block):
        table = (queries[start : start + block] @ gallery.T).cpu().numpy()
        for offset, row in enumerate(table):
            for name, truth in truths.items():
                right, ignored = truth.of(start + offset)
                if missing is not None:
                    ignored = np.union1d(ignored, missing)
                rankings[name].append(rank(row, right, ignored))
                if name == first:
                    index, found = _top(row, ignored, shown)
                    nearest.append(index)
                    values.append(found)
    return Answers(rankings, np.stack(nearest), np.stack(values))


def _top(
    similarity: Float[np.ndarray, " gallery"], ignored: Int[np.ndarray, " ignored"], count: int
) -> tuple[Int[np.ndarray, " neighbors"], Float[np.ndarray, " neighbors"]]:
    row = np.nan_to_num(similarity, nan=-np.inf)
    row[ignored] = -np.inf
    index = torch.from_numpy(row).topk(count).indices.numpy()
    return np.where(np.isin(index, ignored), -1, index), row[index]
