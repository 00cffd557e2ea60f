"""What a loader costs beyond the crops themselves: CPU time of all its processes, against the crops alone.

    python -m benchmarks.loader [cpu] [device]

Batches of 64 photos of `../shared/data/imagenet-sample`, 2 global crops of 224 and 8 local crops of 98,
official preset. CPU time (user and system) of this process and of its workers, rounds interleaved, medians.
`crops alone` reads and crops the same images one after the other in this process, into memory that is
used again.
`DataLoader` is what nexus used before: the same crops, stacked, through PyTorch's DataLoader.
"""

import resource
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from nexus.data.batch import Batch, Masks
from nexus.data.crops.config import CropConfig
from nexus.data.crops.parameters import UNIFORMS
from nexus.data.datasets import open_dataset
from nexus.data.loader import train_batches
from nexus.data.loading.making import BatchMaker
from nexus.data.masking import BlockMasker, MaskConfig
from nexus.data.multicrop import MultiCropAugmentation, MultiCrops
from nexus.data.order import CROPS, MASKS, Order, generator, uniforms

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SOURCE = DATA / "imagenet-sample" / "imagenet-sample-all.tar"
CONFIG = CropConfig(local_size=98)
BATCH, ROUNDS = 64, 3
SHORT, LONG = 4, 10
"""Batches of two runs; their difference is free of what starting costs."""


class Stream(Dataset):
    """Position → crops in fresh memory."""

    def __init__(self, maker: BatchMaker) -> None:
        self.maker = maker

    def __getitem__(self, position: int) -> MultiCrops:
        drawn = uniforms(0, CROPS, position, 1, 10 * UNIFORMS).reshape(10, UNIFORMS)
        return self.maker.augmentation.of(self.maker.dataset.picture(self.maker.order[position]), drawn)


def stacked(masker: BlockMasker, items: Sequence[MultiCrops]) -> Batch:
    """The batch of a micro-batch, crop-major."""
    large, small = (
        torch.stack([getattr(item, name) for item in items], dim=1).flatten(0, 1)
        for name in ("global_crops", "local_crops")
    )
    masks = Masks.from_grid(masker.batch(2 * len(items), generator(0, MASKS, 0)))
    return Batch(large, small, masks, len(items))


def lists(count: int) -> list[range]:
    """The positions of so many batches."""
    return [range(first, first + BATCH) for first in range(0, BATCH * count, BATCH)]


def alone(maker: BatchMaker, count: int) -> None:
    """The crops of all positions."""
    rooms = [np.empty((2, 3, 224, 224), np.uint8), np.empty((8, 3, 98, 98), np.uint8)]
    for positions in lists(count):
        drawn = uniforms(0, CROPS, positions[0], BATCH, 10 * UNIFORMS).reshape(BATCH, 10, UNIFORMS)
        for place, position in enumerate(positions):
            picture = maker.dataset.picture(maker.order[position])
            maker.augmentation.of(picture, drawn[place], lambda chans, kind: (rooms[0], rooms[1]))


def ours(maker: BatchMaker, count: int, workers: int) -> None:
    """Through nexus' loader."""
    consume(train_batches(maker, lists(count), workers=workers, max_seconds=60), count)


def theirs(maker: BatchMaker, count: int, workers: int) -> None:
    """Through PyTorch's DataLoader."""
    ahead = 4 if workers else None
    collate = partial(stacked, maker.masker)
    loader = DataLoader(
        Stream(maker),
        batch_sampler=lists(count),
        collate_fn=collate,
        num_workers=workers,
        prefetch_factor=ahead,
    )
    consume(iter(loader), count)


def consume(batches: Iterable[Batch], count: int) -> None:
    """Take every batch and look at none."""
    seen = 0
    for batch in batches:
        seen += batch.images
    assert seen == BATCH * count


def cpu() -> float:
    """Seconds of this process and of its children that have ended, user and system."""
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in usage)


def measured(work: Callable[[int], None]) -> tuple[float, float]:
    """Milliseconds an image, CPU and by the clock: a long run less a short one."""
    used: list[float] = []
    for count in (SHORT, LONG):
        before, began = cpu(), time.perf_counter()
        work(count)
        used += [cpu() - before, time.perf_counter() - began]
    scale = 1000 / (BATCH * (LONG - SHORT))
    return (used[2] - used[0]) * scale, (used[3] - used[1]) * scale


def main() -> None:
    """Print the result as Markdown."""
    torch.set_num_threads(1)
    dataset = open_dataset(SOURCE)
    masker = BlockMasker(MaskConfig(), 16, 16)
    for engine in sys.argv[1:] or ("cpu", "device"):
        augmentation = MultiCropAugmentation(config=CONFIG, recolour=engine == "cpu")
        maker = BatchMaker(
            dataset, augmentation, Order(len(dataset), 0), masker, CONFIG if engine == "device" else None
        )
        ways: dict[str, Callable[[int], None]] = {"crops alone": partial(alone, maker)}
        ways["nexus, a worker"] = partial(ours, maker, workers=1)
        ways["DataLoader, a worker"] = partial(theirs, maker, workers=1)
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for _ in range(ROUNDS):
            for name, work in ways.items():
                found[name].append(measured(work))
        base = [used for used, _ in found["crops alone"]]
        print(f"\n## engine {engine}\n\n| way | CPU ms an image | beyond the crops | clock ms an image |")
        print("|---|---|---|---|")
        for name, pairs in found.items():
            share = median(used / crops for (used, _), crops in zip(pairs, base, strict=True)) - 1
            used, clock = (median(column) for column in zip(*pairs, strict=True))
            print(f"| {name} | {used:.2f} | {share:+.1%} | {clock:.2f} |", flush=True)


if __name__ == "__main__":
    main()
