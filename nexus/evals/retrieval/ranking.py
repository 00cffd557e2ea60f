"""From similarities to average precision, recall and precision of one query, by counting.

The gallery is sorted by similarity; images that are to be ignored are taken out first. With the `R` right
ones at places `r_1 < r_2 < ...` (counted from 1)::

    AP           = mean over j of  j / r_j
    AP landmarks = mean over j of  ((j - 1) / (r_j - 1)  +  j / r_j) / 2      first term 1 where r_j = 1

The second is the area under the precision-recall curve by trapezoids, as the protocol of Oxford and Paris has
it (Philbin et al. 2007; Radenović et al., arXiv 1803.11285). Of equal similarities the wrong image comes
first, so a model that says the same of all images gets no credit.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int


@dataclass(frozen=True)
class Ranking:
    """Where the right images of one query are in the sorted gallery."""

    places: Int[np.ndarray, " right"]
    """Ascending, counted from 1, ignored images not counted."""
    gallery: int
    """Images that were ranked, without the ignored ones."""

    def average_precision(self, trapezoids: bool = False) -> float:
        """AP in 0..1, of the first or the second kind; NaN for a query without a right image."""
        if not len(self.places):
            return float("nan")
        number = np.arange(1, len(self.places) + 1)
        after = number / self.places
        if not trapezoids:
            return float(after.mean())
        before = np.where(self.places == 1, 1.0, (number - 1) / np.maximum(self.places - 1, 1))
        return float((before + after).mean() / 2)

    def expected(self, trapezoids: bool = False) -> float:
        """The mean of `average_precision` over all orders of the gallery: what guessing gives."""
        right, ranked = len(self.places), self.gallery
        if not right:
            return float("nan")
        harmonic = float((1.0 / np.arange(1, ranked + 1)).sum())
        others = (right - 1) / max(ranked - 1, 1)
        plain = (harmonic + others * (ranked - harmonic)) / ranked
        return (plain + right / ranked) / 2 if trapezoids else plain

    def found(self, k: int) -> bool:
        """Whether one of the first `k` images is right: recall@k as metric learning counts it."""
        return bool(len(self.places) and self.places[0] <= k)

    def precision(self, k: int) -> float:
        """Share of right images among the first `k`, or among the first `r_R` where that is fewer.

        The official protocol of Oxford and Paris shortens `k` so; with `k = 1` it changes nothing.
        """
        if not len(self.places):
            return float("nan")
        first = min(int(self.places[-1]), k)
        return float((self.places <= first).sum() / first)


def rank(
    similarity: Float[np.ndarray, " gallery"],
    right: Int[np.ndarray, " right"],
    ignored: Int[np.ndarray, " ignored"],
) -> Ranking:
    """The places of the `right` rows of a gallery when it is sorted by similarity without `ignored` rows.

    A similarity that is not a number comes last. Time O(gallery · log right); nothing is sorted but the
    right ones.
    """
    similarity = np.where(np.isnan(similarity), -np.inf, similarity)
    wrong = np.ones(len(similarity), dtype=bool)
    wrong[ignored] = False
    right = right[wrong[right]]
    wrong[right] = False
    values = np.sort(similarity[right])
    # A wrong image comes before every right one that is not more similar: the first `beaten` of `values`.
    beaten = np.searchsorted(values, similarity[wrong], side="right")
    before = np.bincount(beaten, minlength=len(values) + 1)[::-1].cumsum()[:-1]
    places = np.arange(1, len(values) + 1) + before
    return Ranking(places.astype(np.int64), int(wrong.sum()) + len(right))
