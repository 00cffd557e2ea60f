"""Logits over prototypes that are not made before they are needed, and only some rows at a time.

With 65,536 prototypes a row of logits holds 256 times as many numbers as the bottleneck feature it comes
from. So features and prototypes travel, and whoever needs logits makes a few rows and lets them go.
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from nexus.losses.numerics import full_dtype, no_autocast

KEPT = 2**28
"""Elements of a table of logits that may be held for the length of a computation."""


class Logits:
    """The table `features @ prototypes.T` in the dtype of the features; without prototypes the features.

    `logits[a:b]` makes some of its rows.
    """

    def __init__(
        self,
        features: Float[Tensor, "rows bottleneck"],
        prototypes: Float[Tensor, "prototypes bottleneck"] | None = None,
    ) -> None:
        self.features = features
        self.prototypes = None if prototypes is None else prototypes.to(features.dtype)

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
            total = self.features.sum(dim=0, keepdim=True, dtype=full_dtype(self.features.dtype))
            return total if self.prototypes is None else total @ self.prototypes.T.to(total.dtype)


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
        prototypes = self.logits.prototypes
        return [Targets(Logits(rows, prototypes), self.temperature, self.offset) for rows in parts]
