"""Exact search for pairs of similar rows, block by block, and the groups that such pairs form.

Memory is that of the rows and a few blocks of `chunk` × `chunk` numbers, never n × n; time is O(n² d).
"""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

_MOST_EDGES = 1 << 22


def pairs_above(
    rows: Shaped[Tensor, "samples dim"], threshold: float, *, chunk: int = 2048
) -> Iterator[tuple[Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"]]]:
    """Yield `(i, j)`, all pairs of rows with `i < j` and `rows[i] · rows[j] >= threshold`, block by block.

    Rows of any numeric type; products are computed in float32 on the rows' device.
    """
    count = len(rows)
    for top in range(0, count, chunk):
        upper = rows[top : top + chunk].float()
        for left in range(top, count, chunk):
            close = upper @ rows[left : left + chunk].float().T >= threshold
            if left == top:
                close = close.triu(diagonal=1)
            i, j = (side.cpu().numpy() for side in close.nonzero(as_tuple=True))
            if len(i):
                yield i + top, j + left


def unit_rows(rows: Float[Tensor, "samples dim"]) -> Float[Tensor, "samples dim"]:
    """Rows scaled to length 1 in float32, so that dot products are cosines; a zero row stays zero."""
    return torch.nn.functional.normalize(rows.float(), dim=1)


class Components:
    """Groups of items that are linked directly or through others (connected components).

    Links are folded together whenever many have come in, so memory stays O(items).
    """

    def __init__(self, count: int) -> None:
        self._labels = np.arange(count)
        self._links: list[tuple[np.ndarray, np.ndarray]] = []
        self._waiting = 0

    def link(self, i: Int[np.ndarray, " pairs"], j: Int[np.ndarray, " pairs"]) -> None:
        """Put the items `i[k]` and `j[k]` into the same group."""
        self._links.append((i, j))
        self._waiting += len(i)
        if self._waiting > _MOST_EDGES:
            self._fold()

    def groups(self) -> list[Int[np.ndarray, " members"]]:
        """Groups of two or more items; members ascending, groups by their first member."""
        self._fold()
        order = np.argsort(self._labels, kind="stable")
        starts = np.flatnonzero(np.diff(self._labels[order])) + 1
        groups = [members for members in np.split(order, starts) if len(members) > 1]
        return sorted(groups, key=lambda members: int(members[0]))

    def _fold(self) -> None:
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        count = len(self._labels)
        if not self._links:
            return
        first = np.concatenate([self._labels[i] for i, _ in self._links])
        second = np.concatenate([self._labels[j] for _, j in self._links])
        graph = coo_array((np.ones(len(first), bool), (first, second)), shape=(count, count))
        self._labels = connected_components(graph, directed=False)[1][self._labels]
        self._links, self._waiting = [], 0
