"""`nexus data scan`: every image of a data set opened, decoded and counted.

Exact duplicates are images with equal bytes: of the files, or for sources of arrays of the values. Two files
that decode to the same picture but were written differently are none here (`nexus.data.deduplication`).
"""

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nexus.data.batch import Fault
from nexus.data.datasets import ImageDataset, open_dataset
from nexus.data.parallel import Progress, all_cores, in_order
from nexus.data.picture import EncodedPicture, Look
from nexus.errors import ConfigError, ImageError

TINY = 64
"""Images with a shorter side below this are listed as tiny, in pixels."""

EXTREME = 4.0
"""Images whose longer side is more than this many times the shorter one are listed."""


@dataclass(frozen=True)
class Seen:
    """One image: sides in pixels, Pillow's mode or the type of an array, channels, bits, digest."""

    name: str
    width: int
    height: int
    mode: str
    chans: int
    bits: int
    digest: bytes
    encoded: bool


@dataclass(frozen=True)
class Survey:
    """What was seen of a data set."""

    description: str
    images: int
    """Entries of the data set."""
    examined: int
    sides: Mapping[str, tuple[int, int, int]]
    """Smallest, median and largest width, height and shorter side, in pixels."""
    modes: Mapping[str, int]
    channels: Mapping[str, int]
    """Number of channels → images."""
    bits: Mapping[str, int]
    """Bits of a channel → images."""
    unreadable: tuple[Fault, ...]
    compared: str
    """What duplicates were told by: sha256 of the files, or of the values."""
    duplicates: tuple[tuple[str, ...], ...]
    """Groups of images that are the same, the first one first."""
    tiny: tuple[str, ...]
    extreme: tuple[str, ...]

    @property
    def superfluous(self) -> int:
        """Images that have a twin before them."""
        return sum(len(group) - 1 for group in self.duplicates)

    def as_json(self) -> dict[str, Any]:
        """Everything, for programs."""
        return {
            "data": self.description,
            "images": self.images,
            "examined": self.examined,
            "sides": {name: list(values) for name, values in self.sides.items()},
            "modes": dict(self.modes),
            "channels": dict(self.channels),
            "bits": dict(self.bits),
            "unreadable": [{"name": fault.name, "reason": fault.reason} for fault in self.unreadable],
            "duplicates": {
                "compared_by": self.compared,
                "groups": [list(group) for group in self.duplicates],
            },
            "tiny": {"below": TINY, "names": list(self.tiny)},
            "extreme_aspect": {"above": EXTREME, "names": list(self.extreme)},
        }


def survey(
    data: str | Path | ImageDataset,
    *,
    limit: int | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Survey:
    """Decode every image of `data`, or the first `limit`, and say what there is.

    `workers` are threads, left out: one for each core. Raises `DataError` where `data` is no data set.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"limit={limit} leaves no image; use 1 or more, or leave it out")
    dataset = open_dataset(data).seen_as(Look("native"))
    chosen = range(min(len(dataset), limit or len(dataset)))
    threads = all_cores() if workers is None else workers
    found = list(in_order(lambda index: _see(dataset, index), chosen, threads, progress))
    seen = [one for one in found if isinstance(one, Seen)]
    return Survey(
        description=dataset.description,
        images=len(dataset),
        examined=len(found),
        sides=_sides(seen),
        modes=_counted(one.mode for one in seen),
        channels=_counted(str(one.chans) for one in seen),
        bits=_counted(str(one.bits) for one in seen),
        unreadable=dataset.faults + tuple(one for one in found if isinstance(one, Fault)),
        compared="sha256 of " + " and ".join(sorted({_compared(one.encoded) for one in seen})),
        duplicates=_groups(seen),
        tiny=tuple(one.name for one in seen if min(one.width, one.height) < TINY),
        extreme=tuple(one.name for one in seen if _aspect(one) > EXTREME),
    )


def _see(dataset: ImageDataset, index: int) -> Seen | Fault:
    try:
        picture = dataset.picture(index)
        values = picture.values()
        width, height = picture.size
    except ImageError as error:
        return Fault(error.name, error.reason)
    encoded = isinstance(picture, EncodedPicture)
    if isinstance(picture, EncodedPicture):
        digest = hashlib.sha256(picture.data)
        mode = picture.header.mode
    else:
        digest = hashlib.sha256(f"{values.dtype} {values.shape} ".encode())
        digest.update(np.ascontiguousarray(values).data)
        mode = f"{values.shape[2]} x {values.dtype}"
    bits = 8 * values.dtype.itemsize if values.dtype != np.bool_ else 1
    chans = values.shape[2]
    return Seen(dataset.name(index), width, height, mode, chans, bits, digest.digest(), encoded)


def _compared(encoded: bool) -> str:
    return "the files" if encoded else "the values"


def _sides(seen: list[Seen]) -> dict[str, tuple[int, int, int]]:
    columns = {
        "width": [one.width for one in seen],
        "height": [one.height for one in seen],
        "shorter side": [min(one.width, one.height) for one in seen],
    }
    return {
        name: (min(values), int(np.median(values)), max(values)) for name, values in columns.items() if values
    }


def _counted(values: Any) -> dict[str, int]:
    return dict(Counter(values).most_common())


def _groups(seen: list[Seen]) -> tuple[tuple[str, ...], ...]:
    names: dict[bytes, list[str]] = {}
    for one in seen:
        names.setdefault(one.digest, []).append(one.name)
    return tuple(tuple(group) for group in names.values() if len(group) > 1)


def _aspect(one: Seen) -> float:
    return max(one.width, one.height) / min(one.width, one.height)
