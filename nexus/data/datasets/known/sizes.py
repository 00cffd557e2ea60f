"""How many images the benchmarks have, and a word where some are missing."""

import logging

from nexus.data.datasets.base import ImageDataset

log = logging.getLogger(__name__)

OFFICIAL: dict[str, dict[str, int]] = {
    "ImageNet-1k": {"train": 1_281_167, "val": 50_000},
    "ImageNet-V2": {"test": 10_000},
    "ImageNet-R": {"test": 30_000},
    "ImageNet-A": {"test": 7_500},
    "ImageNet-Sketch": {"test": 50_889},
    "iNaturalist 2018": {"train": 437_513, "val": 24_426},
    "iNaturalist 2021": {"train": 2_686_843, "train_mini": 500_000, "val": 100_000},
    "Places205": {"train": 2_448_873, "val": 20_500},
    "Places365": {"train": 1_803_460, "val": 36_500},
}
"""Images of each split, as their authors publish them."""


def checked(dataset: ImageDataset, benchmark: str, split: str) -> ImageDataset:
    """The data set itself. Where it has not the official number of images, a warning says so."""
    wanted = OFFICIAL.get(benchmark, {}).get(split)
    if wanted is not None and len(dataset) != wanted:
        cure = "unpack the rest" if len(dataset) < wanted else "something else lies among them"
        log.warning(
            "%s %s: %s of %s images are here, so figures do not compare with published ones; %s",
            benchmark,
            split,
            f"{len(dataset):,}",
            f"{wanted:,}",
            cure,
        )
    return dataset
