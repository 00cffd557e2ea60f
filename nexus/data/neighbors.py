"""Exact search for similar rows, block by block: pairs and the groups that they form, and the nearest ones.

Memory is that of the rows and a few blocks of products, never n × n; time is O(n² d).
"""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

_MOST_EDGES = 1 << 22
_GROUP = 64
"""Rows of a bank whose largest product is looked at first."""


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


def nearest_rows(
    bank: Float[Tensor, "samples dim"],
    queries: Float[Tensor, "queries dim"],
    count: int,
    *,
    rows: int = 65_536,
    chunk: int = 512,
) -> tuple[Float[Tensor, "queries neighbors"], Int[Tensor, "queries neighbors"]]:
    """The largest dot products of each query with `bank`, and their rows; largest first, exact in float32.

    The bank is taken `rows` at a time, so memory is that of `chunk` × `rows` products. Within a block the
    best lie among the groups of rows whose maximum is best, so only these are sorted. Of equal products the
    lower row comes first (which of them are the last ones kept is left open).
    """
    count = min(count, len(bank))
    found = [_nearest(bank, part.float(), count, max(rows, count)) for part in queries.split(chunk)]
    return torch.cat([values for values, _ in found]), torch.cat([index for _, index in found])


def _nearest(bank: Tensor, queries: Tensor, count: int, rows: int) -> tuple[Tensor, Tensor]:
    values = queries.new_empty(len(queries), 0)
    index = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)
    for start in range(0, len(bank), rows):
        products = queries @ bank[start : start + rows].float().T
        least = values[:, -1:] if values.shape[1] == count else None
        block, places = _candidates(products, count, least)
        both, where = torch.cat([values, block], dim=1), torch.cat([index, places + start], dim=1)
        values, order = both.topk(min(count, both.shape[1]), dim=1)
        index = where.gather(1, order)
    by_row = index.argsort(dim=1)  # then stably by value: of equal ones the lower row first
    values, index = values.gather(1, by_row), index.gather(1, by_row)
    order = values.argsort(dim=1, descending=True, stable=True)
    return values.gather(1, order), index.gather(1, order)


def _candidates(products: Tensor, count: int, least: Tensor | None) -> tuple[Tensor, Tensor]:
    """Products of one block, and their places, among which are the `count` largest of each line.

    With `least`, those that exceed it are enough.
    """
    whole = products.shape[1] // _GROUP * _GROUP
    groups = whole // _GROUP
    if groups <= count and least is None:
        return products.topk(min(count, products.shape[1]), dim=1)
    best = products[:, :whole].unflatten(1, (groups, _GROUP)).amax(dim=2)
    wanted = min(count, groups)
    if least is not None:
        wanted = min(wanted, int((best > least).sum(dim=1).max()))
    chosen = best.topk(wanted, dim=1).indices
    inside = torch.arange(_GROUP, device=products.device)
    tail = torch.arange(whole, products.shape[1], device=products.device).expand(len(products), -1)
    places = torch.cat([(chosen[:, :, None] * _GROUP + inside).flatten(1), tail], dim=1)
    return products.gather(1, places), places


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
