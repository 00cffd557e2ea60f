"""Frozen features of random views, kept: a head can be trained on them again and again at little cost.

As long as there are as many views as a training asks for, this is exactly the training with fresh crops in
every step, since the backbone never changes. With fewer, views come back after a while, as images do anyway.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from nexus.evals.context import EvalContext
from nexus.evals.dense.maps import LayerMap, Maps, layer_maps
from nexus.evals.dense.views import View

log = logging.getLogger(__name__)

MOST_BYTES = 2 << 30
VIEWS_AN_IMAGE = 8
"""Kept for each training image, if nobody says another number and more would be asked for."""


@dataclass(frozen=True)
class Bank:
    """Maps and truths of views, on the CPU, and the row of the image of each."""

    maps: Maps
    truths: Shaped[Tensor, "views height width"]
    rows: Int[Tensor, " views"]

    def __len__(self) -> int:
        return len(self.rows)

    def of(self, rows: Iterable[int]) -> Int[Tensor, " some"]:
        """The views of some images; all views where there is none of these."""
        found = torch.isin(self.rows, torch.as_tensor(sorted(rows))).nonzero().flatten()
        return found if len(found) else torch.arange(len(self))

    def batches(
        self, views: Int[Tensor, " some"], size: int, steps: int, seed: int, device: torch.device
    ) -> Iterator[tuple[Maps, Shaped[Tensor, "batch height width"]]]:
        """`steps` batches from shuffled passes over some views."""
        generator = torch.Generator().manual_seed(seed)
        size = min(size, len(views))
        waiting = torch.empty(0, dtype=torch.long)
        for _ in range(steps):
            if len(waiting) < size:
                waiting = torch.cat([waiting, views[torch.randperm(len(views), generator=generator)]])
            chosen, waiting = waiting[:size], waiting[size:]
            maps = (LayerMap(m.patches[chosen].to(device), m.cls[chosen].to(device)) for m in self.maps)
            yield tuple(maps), self.truths[chosen].to(device)


def how_many(images: int, wanted: int, views: int | None, bytes_each: int, *, say: bool = True) -> int:
    """Views to keep: as many as the training asks for, but no more than `views` an image, nor than fit.

    Left out, `views` is 8; a line says what was decided.
    """
    most = images * (VIEWS_AN_IMAGE if views is None else views)
    fitting = max(1, MOST_BYTES // bytes_each)
    count = max(1, min(wanted, most, fitting))
    if say:
        why = (
            "each used once" if count == wanted else f"of {wanted:,} that fresh crops in every step would be"
        )
        log.info("%s random views of %s training images are kept, %s", f"{count:,}", f"{images:,}", why)
    return count


def fill(context: EvalContext, views: Iterable[tuple[int, View]], layers: Sequence[int], count: int) -> Bank:
    """Run the backbone on views, batch by batch."""
    maps: list[list[LayerMap]] = [[] for _ in layers]
    truths: list[Tensor] = []
    rows: list[int] = []
    for batch in _batched(views, context.view.batch_size):
        pixels = torch.stack([view.pixels for _, view in batch])
        for kept, found in zip(maps, layer_maps(context, pixels, layers), strict=True):
            kept.append(LayerMap(found.patches.cpu(), found.cls.cpu()))
        truths += [view.truth for _, view in batch]
        rows += [row for row, _ in batch]
        if context.progress is not None:
            context.progress(len(rows), count)
    joined = tuple(
        LayerMap(torch.cat([m.patches for m in kept]), torch.cat([m.cls for m in kept])) for kept in maps
    )
    return Bank(joined, torch.stack(truths), torch.tensor(rows))


def _batched(views: Iterable[tuple[int, View]], size: int) -> Iterator[list[tuple[int, View]]]:
    iterator = iter(views)
    while batch := list(islice(iterator, size)):
        yield batch
