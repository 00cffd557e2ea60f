"""A first look at a data set: how many images, how large, which modes, how many unreadable."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from nexus.data.batch import Fault
from nexus.data.datasets.base import ImageDataset
from nexus.errors import ImageError


@dataclass(frozen=True)
class ScanReport:
    """What `scan` saw. Sides are in pixels, as stored; those of readable images only, 0 without any."""

    images: int
    """Entries of the data set."""
    examined: int
    """How many of them were looked at."""
    median_width: int
    median_height: int
    min_side: int
    max_side: int
    modes: Mapping[str, int]
    """Pillow mode → number of examined images, most frequent first."""
    unreadable: tuple[Fault, ...]
    """Faults of the listing, then unusable ones among the examined."""
    estimated_unreadable: float
    """Share 0..1 of the examined images whose header says that they cannot be used."""

    def sentence(self) -> str:
        """`found 214,332 images (3 unreadable), median 1024 x 768, RGB 98 %, L 2 %`."""
        text = f"found {self.images:,} image{'s' if self.images != 1 else ''}"
        if self.unreadable:
            among = f" among {self.examined:,} examined" if self.examined < self.images else ""
            text += f" ({len(self.unreadable):,} unreadable{among})"
        total = sum(self.modes.values())
        if not total:
            return text
        shares = [f"{mode} {_percent(count / total)}" for mode, count in self.modes.items()]
        return f"{text}, median {self.median_width} x {self.median_height}, {', '.join(shares)}"


def scan(dataset: ImageDataset, sample: int = 1000, seed: int = 0) -> ScanReport:
    """Look at the headers of at most `sample` images, spread evenly; of all, if there are no more.

    Nothing is decoded, so damage behind the header is not seen here. One image is drawn at random from each
    of `sample` stretches of equal length, which `seed` decides.
    """
    sizes: list[tuple[int, int]] = []
    modes: Counter[str] = Counter()
    faults: list[Fault] = []
    chosen = _spread(len(dataset), sample, seed)
    for i in chosen:
        try:
            width, height, mode = dataset.header(int(i))
        except ImageError as error:
            faults.append(Fault(dataset.name(int(i)), error.reason))
            continue
        sizes.append((width, height))
        modes[mode] += 1
    table = np.array(sizes or [(0, 0)], dtype=np.int64)
    width, height = (int(side) for side in np.median(table, axis=0))
    return ScanReport(
        images=len(dataset),
        examined=len(chosen),
        median_width=width,
        median_height=height,
        min_side=int(table.min()),
        max_side=int(table.max()),
        modes=dict(modes.most_common()),
        unreadable=dataset.faults + tuple(faults),
        estimated_unreadable=len(faults) / max(len(chosen), 1),
    )


def _spread(count: int, sample: int, seed: int) -> Int64[np.ndarray, " examined"]:
    if count <= sample:
        return np.arange(count, dtype=np.int64)
    edges = np.linspace(0, count, sample + 1).astype(np.int64)
    return np.random.default_rng(seed).integers(edges[:-1], edges[1:])


def _percent(share: float) -> str:
    percent = 100 * share
    return f"{percent:.0f} %" if percent >= 1 or percent == 0 else "< 1 %"
