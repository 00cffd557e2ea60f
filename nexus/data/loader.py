"""From a data set to the `Batch`es of a training run."""

import os
from collections.abc import Iterable, Sequence
from typing import Literal

from pydantic import NonNegativeInt, PositiveFloat

from nexus.config import Config, Share
from nexus.data.batch import Batch
from nexus.data.images import ImageLimits
from nexus.data.loading.ahead import Batches
from nexus.data.loading.making import BatchMaker
from nexus.data.loading.pool import WorkerPool
from nexus.data.loading.slots import Bytes, Slots
from nexus.data.picture import RGB, Channels, Look, ValueRange
from nexus.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from nexus.errors import ConfigError


class DataConfig(Config):
    """Where the images come from and how they are read."""

    source: str = ""
    """Folder, glob, list, tar, zip, pack or `synthetic:...`; `--data` sets it."""
    split: str | None = None
    """Which split of a source that has splits; left out: `train` if there is one, else everything."""
    channels: Channels = "rgb"
    """`rgb` makes three 8-bit channels of every image; `native` trains on those stored, at their depth."""
    value_range: ValueRange | None = None
    """The stored values that become 0 and 1 of `native` channels; left out: by type, or as measured."""
    floats: bool = False
    """Pixels of `native` channels are floats of 0..1 also where they have 8 bits, to mix with deeper ones."""
    mean: tuple[float, ...] | None = None
    """Mean of each channel in 0..1; left out: ImageNet's, of `native` channels measured at the start."""
    std: tuple[PositiveFloat, ...] | None = None
    """Standard deviation of each channel in 0..1; left out: as for the mean."""
    engine: Literal["cpu", "device", "resident"] = "cpu"
    """Where crops are made: `cpu`; `device` (cut by the CPU, coloured there); `resident` (all there)."""
    native: bool = False
    """Whether crops are cut and coloured by compiled loops, which needs numba; not by `resident`."""
    workers: NonNegativeInt = 10
    """Processes that read and crop images; 0 does it in the training process."""
    limits: ImageLimits = ImageLimits()
    """Images outside these limits are skipped and listed."""
    max_unreadable: Share = 0.5
    """Training stops when more than this share of the images tried cannot be used."""

    @property
    def normalization(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel."""
        return self.mean or IMAGENET_MEAN, self.std or IMAGENET_STD

    @property
    def look(self) -> Look:
        """What images become."""
        if self.channels == "rgb":
            return RGB
        return Look("native", self.value_range, self.mean, self.floats)


def train_batches(
    maker: BatchMaker, lists: Iterable[Sequence[int]], *, workers: int, max_seconds: float
) -> Batches:
    """A batch for each list of consecutive positions, in order; the same at any number of workers.

    The crops lie in memory that is used again once no tensor of the batch is left. Worker processes start at
    once and end with the last batch, or when the iterator is closed. Raises the errors of the data as they
    are, and those of `nexus.data.loading.pool.WorkerPool`.
    """
    if workers and os.name != "posix":
        raise ConfigError("worker processes need Linux or macOS; set data.workers=0")
    if workers:
        return WorkerPool(maker, lists, workers=workers, max_seconds=max_seconds)
    return _Here(maker, lists)


class _Here(Batches):
    """Batches made in this process when they are asked for; nobody can interrupt an image that takes long."""

    def __init__(self, maker: BatchMaker, lists: Iterable[Sequence[int]]) -> None:
        self.maker = maker
        self.lists = iter(lists)
        self.slots = Slots(shared=False)

    def __next__(self) -> Batch:
        lent: list[Bytes] = []

        def memory(size: int) -> Bytes:
            lent.append(self.slots.lend(self.slots.take(size)))
            return lent[0]

        return self.maker.make(next(self.lists), memory).batch(lent[0])

    def ready(self) -> bool:
        """Never: it is made by whoever asks."""
        return False

    def close(self) -> None:
        """Nothing is running."""
        self.lists = iter(())
