"""What a classifier said of every test image: which classes it confuses, and where it was sure and wrong."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

MOST_CLASSES = 20
"""Up to so many classes the whole confusion matrix is told, beyond that the pairs that are confused most."""
PAIRS = 20
WORST = 12


@dataclass(frozen=True)
class Guesses:
    """What was said of every test image, row for row."""

    names: tuple[str, ...]
    truth: Int[Tensor, " samples"]
    guess: Int[Tensor, " samples"]
    """-1 where no class had a finite score."""
    confidence: Float[Tensor, " samples"]
    """0..1: the share of the votes, or the probability, of the guess."""

    @staticmethod
    def joined(parts: Sequence["Guesses"]) -> "Guesses":
        """Several of them, one after the other."""
        return Guesses(
            names=tuple(name for part in parts for name in part.names),
            truth=torch.cat([part.truth for part in parts]),
            guess=torch.cat([part.guess for part in parts]),
            confidence=torch.cat([part.confidence for part in parts]),
        )

    @property
    def wrong(self) -> Int[Tensor, " mistakes"]:
        """Rows of the wrong guesses, ascending; of an image without a guess there is none."""
        return ((self.guess != self.truth) & (self.guess >= 0)).nonzero().flatten()

    def counts(self, classes: int) -> Int[Tensor, "classes classes"]:
        """How many images of each class (rows) were taken for each class (columns)."""
        known = self.guess >= 0
        places = self.truth[known] * classes + self.guess[known]
        return places.bincount(minlength=classes**2).view(classes, classes)

    def pairs(self, most: int = PAIRS) -> list[tuple[int, int, int, int]]:
        """`(truth, guess, count, images of that class)`, the commonest confusions first, of equal ones the
        larger share of the class, then the lower numbers."""
        wrong = self.wrong
        both, count = torch.unique(
            torch.stack([self.truth[wrong], self.guess[wrong]], dim=1), dim=0, return_counts=True
        )
        images = self.truth.bincount()
        found = [(a, b, n, int(images[a])) for (a, b), n in zip(both.tolist(), count.tolist(), strict=True)]
        return sorted(found, key=lambda pair: (-pair[2], pair[3], pair[:2]))[:most]

    def worst(self, most: int = WORST) -> list[int]:
        """Rows of the wrong guesses that were surest, the surest first, one for each name."""
        wrong = self.wrong
        order = wrong[self.confidence[wrong].sort(descending=True, stable=True).indices]
        found: dict[str, int] = {}
        for row in order.tolist():
            if len(found) == most:
                break
            found.setdefault(self.names[row], row)
        return list(found.values())

    def told(self, called: Sequence[str]) -> dict[str, Any]:
        """The same for `eval.json`: `confusion` or `confused`, and `mistakes`; classes are `called` so."""
        mistakes = [
            {
                "name": self.names[row],
                "truth": called[int(self.truth[row])],
                "guess": called[int(self.guess[row])],
                "confidence": round(float(self.confidence[row]), 4),
            }
            for row in self.worst()
        ]
        if len(called) <= MOST_CLASSES:
            return {
                "confusion": {"classes": list(called), "counts": self.counts(len(called)).tolist()},
                "mistakes": mistakes,
            }
        confused = [
            {"truth": called[truth], "guess": called[guess], "count": count, "images": images}
            for truth, guess, count, images in self.pairs()
        ]
        return {"confused": confused, "mistakes": mistakes}


Guessing = Callable[[tuple[str, ...], Float[Tensor, "samples classes"], Int[Tensor, " samples"]], Guesses]
"""From names, scores and true classes to guesses. Scores that are not finite are no guess."""


def by_logits(
    names: tuple[str, ...], scores: Float[Tensor, "samples classes"], truth: Int[Tensor, " samples"]
) -> Guesses:
    """The most probable class by the softmax of the scores; of equal ones the lowest."""
    finite = torch.where(scores.isfinite(), scores, -torch.inf)
    return _highest(names, finite, finite.softmax(dim=1), truth)


def by_votes(
    names: tuple[str, ...], scores: Float[Tensor, "samples classes"], truth: Int[Tensor, " samples"]
) -> Guesses:
    """The class with most votes, none of them negative; of equal ones the lowest."""
    votes = torch.where(scores.isfinite(), scores, 0)
    return _highest(names, scores, votes / votes.sum(dim=1, keepdim=True), truth)


def _highest(names: tuple[str, ...], scores: Tensor, shares: Tensor, truth: Tensor) -> Guesses:
    guess = scores.argmax(dim=1, keepdim=True)
    none = ~scores.gather(1, guess)[:, 0].isfinite()
    sure = shares.gather(1, guess)[:, 0].masked_fill(none, 0)
    return Guesses(names, truth.cpu(), guess[:, 0].masked_fill(none, -1).cpu(), sure.float().cpu())
