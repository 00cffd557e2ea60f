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
_ON_CPU, _ON_ACCELERATOR = (1024, 2048), (512, 65_536)
"""Queries and rows that are compared at once: 8 MB of products stay in a cache, 128 MiB fill a GPU."""


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


@torch.no_grad()
def nearest_rows(
    bank: Float[Tensor, "samples dim"],
    queries: Float[Tensor, "queries dim"],
    count: int,
    *,
    rows: int | None = None,
    chunk: int | None = None,
) -> tuple[Float[Tensor, "queries neighbors"], Int[Tensor, "queries neighbors"]]:
    """The largest dot products of each query with `bank`, and their rows; largest first, exact in float32.

    `chunk` queries are compared with `rows` rows at a time; left out, with as many as suit the device. Of
    equal products the lower row comes first (which of them are the last ones kept is left open).
    """
    count = min(count, len(bank))
    usual = _ON_CPU if bank.device.type == "cpu" else _ON_ACCELERATOR
    rows, chunk = rows or usual[1], chunk or usual[0]
    found = [_nearest(bank, part.float(), count, max(rows, count)) for part in queries.split(chunk)]
    return torch.cat([values for values, _ in found]), torch.cat([index for _, index in found])


def _nearest(bank: Tensor, queries: Tensor, count: int, rows: int) -> tuple[Tensor, Tensor]:
    products = queries.new_empty(len(queries), min(rows, len(bank)))
    best: _Best | None = None
    for start in range(0, len(bank), rows):
        block = bank[start : start + rows].float()
        part = products[:, : len(block)]
        torch.mm(queries, block.T, out=part)
        if best is None:
            best = _Best(*part.topk(count, dim=1))
        else:
            best.offer(part, start)
    return (queries.new_empty(len(queries), 0),) * 2 if best is None else best.sorted()


class _Best:
    """The best rows of each query so far, and others that exceeded the least of them when they came by.

    Few do once many rows were seen, so that a block costs little more than one look at its products; the
    best are chosen among them when as many wait as are kept.
    """

    def __init__(self, values: Tensor, index: Tensor) -> None:
        self.values, self.index = values, index
        self.waiting: list[tuple[Tensor, Tensor, Tensor]] = []
        """Query, product and row of each."""

    def offer(self, products: Tensor, start: int) -> None:
        """Look at products with the rows from `start` on."""
        line, place = _above(products, self.values[:, -1:])
        self.waiting.append((line, products[line, place], place + start))
        if sum(len(query) for query, _, _ in self.waiting) >= self.values.numel():
            self._choose()

    def sorted(self) -> tuple[Tensor, Tensor]:
        """Products and rows, largest first, of equal ones the lower row first."""
        self._choose()
        by_row = self.index.argsort(dim=1)
        values, index = self.values.gather(1, by_row), self.index.gather(1, by_row)
        order = values.argsort(dim=1, descending=True, stable=True)
        return values.gather(1, order), index.gather(1, order)

    def _choose(self) -> None:
        if not self.waiting:
            return
        line, values, index = (torch.cat(parts) for parts in zip(*self.waiting, strict=True))
        self.waiting = []
        line, order = line.sort()
        many = line.bincount(minlength=len(self.values))
        column = torch.arange(len(line), device=line.device) - (many.cumsum(0) - many)[line]
        shape = (len(self.values), int(many.max()))
        table = self.values.new_full(shape, -torch.inf)
        table[line, column] = values[order]
        places = self.index.new_zeros(shape)
        places[line, column] = index[order]
        count = self.values.shape[1]
        self.values, chosen = torch.cat([self.values, table], dim=1).topk(count, dim=1)
        self.index = torch.cat([self.index, places], dim=1).gather(1, chosen)


def _above(products: Tensor, least: Tensor) -> tuple[Tensor, Tensor]:
    """Lines and places of products that exceed the `least` of their line."""
    width = products.shape[1]
    if width % _GROUP:
        line, place = (products > least).nonzero(as_tuple=True)
        return line, place
    grouped = products.unflatten(1, (width // _GROUP, _GROUP))
    line, group = (grouped.amax(dim=2) > least).nonzero(as_tuple=True)
    hit, inside = (grouped[line, group] > least[line]).nonzero(as_tuple=True)
    return line[hit], group[hit] * _GROUP + inside


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
