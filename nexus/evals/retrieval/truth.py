"""Which images of a gallery are right for a query, and which are not to be counted."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

Rows = Int[np.ndarray, "_"]


@runtime_checkable
class Truth(Protocol):
    """What is known about every query."""

    def of(self, query: int) -> tuple[Rows, Rows]:
        """The right rows of the gallery for a query, and those that are left out of its ranking."""


@dataclass(frozen=True)
class GroupTruth:
    """Right is what has the group of the query; a group below 0 is nobody's."""

    queries: Int[np.ndarray, " queries"]
    """The group of each query."""
    gallery: Int[np.ndarray, " gallery"]
    own: Int[np.ndarray, " queries"] | None = None
    """The row of the gallery that is the query itself and is left out; -1 or None where there is none."""

    def of(self, query: int) -> tuple[Rows, Rows]:
        """The members of the query's group, and the query itself."""
        group = self.queries[query]
        right = np.flatnonzero(self.gallery == group) if group >= 0 else np.empty(0, np.int64)
        own = -1 if self.own is None else int(self.own[query])
        ignored = np.array([own] if own >= 0 else [], dtype=np.int64)
        return right[~np.isin(right, ignored)], ignored


@dataclass(frozen=True)
class ListTruth:
    """Right and ignored rows written down for each query, as in the landmark sets."""

    right: tuple[Rows, ...]
    ignored: tuple[Rows, ...]

    def of(self, query: int) -> tuple[Rows, Rows]:
        """Its two lists."""
        return self.right[query], self.ignored[query]
