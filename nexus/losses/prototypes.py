"""Logits over prototypes that are not made before they are needed, and only some rows at a time.

With 65,536 prototypes a row of logits holds 256 times as many numbers as the bottleneck feature it comes
from. So features and prototypes travel, and whoever needs logits makes a few rows and lets them go.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from nexus.losses.numerics import full_dtype, no_autocast

KEPT = 2**28
"""Elements of a table of logits that may be held for the length of a computation."""


class Prototypes:
    """The rows that features are compared with. Their copy in another dtype is made once."""

    def __init__(self, weight: Float[Tensor, "prototypes bottleneck"]) -> None:
        self.weight = weight
        self._copies = {weight.dtype: weight}

    def to(self, dtype: torch.dtype) -> Float[Tensor, "prototypes bottleneck"]:
        """The rows in `dtype`."""
        if dtype not in self._copies:
            self._copies[dtype] = self.weight.to(dtype)
        return self._copies[dtype]


class Logits:
    """The table `features @ prototypes.T` in the dtype of the features; without prototypes the features.

    `logits[a:b]` makes some of its rows.
    """

    def __init__(
        self,
        features: Float[Tensor, "rows bottleneck"],
        prototypes: Float[Tensor, "prototypes bottleneck"] | Prototypes | None = None,
    ) -> None:
        self.features = features
        self.source = Prototypes(prototypes) if isinstance(prototypes, Tensor) else prototypes
        self.prototypes = None if self.source is None else self.source.to(features.dtype)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and prototypes."""
        return len(self.features), (self.features if self.prototypes is None else self.prototypes.T).shape[1]

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, rows: slice) -> Float[Tensor, "rows prototypes"]:
        """Some rows of the table."""
        if self.prototypes is None:
            return self.features[rows]
        with no_autocast(self.features.device):
            return self.features[rows] @ self.prototypes.T

    def kept(self) -> "Logits":
        """The same, made once as a table where that is of moderate size; for who needs it again and again."""
        rows, columns = self.shape
        return Logits(self[:]) if rows * columns <= KEPT else self

    def column_sums(self) -> Float[Tensor, "1 prototypes"]:
        """The sum over rows in full precision: the logits of the sum, for logits are linear."""
        with no_autocast(self.features.device):
            total = self.features.sum(dim=0, dtype=full_dtype(self.features.dtype))
            return (total if self.source is None else self.source.to(total.dtype).mv(total))[None]


@dataclass(frozen=True)
class Targets:
    """What a teacher asks for: `softmax(logits / temperature - offset)`, made when it is needed.

    Both kinds of centering have this form; `offset` (1, prototypes) is what they differ in.
    """

    logits: Logits
    temperature: float
    offset: Float[Tensor, "1 prototypes"]

    def __len__(self) -> int:
        return len(self.logits)

    def log_probs(self, logits: Float[Tensor, "rows prototypes"]) -> Float[Tensor, "rows prototypes"]:
        """Log-probabilities of some rows of logits, in full precision."""
        dtype = full_dtype(logits.dtype)
        with no_autocast(logits.device):
            return logits.to(dtype).div(self.temperature).sub_(self.offset.to(dtype)).log_softmax(dim=1)

    def split(self, counts: list[int]) -> "list[Targets]":
        """The targets of consecutive groups of rows."""
        parts = self.logits.features.split(counts)
        source = self.logits.source
        return [Targets(Logits(rows, source), self.temperature, self.offset) for rows in parts]
