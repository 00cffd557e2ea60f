"""From a data set to the `Batch`es of a training run: read, crop, mask, stack."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.utils.data import DataLoader, Dataset

from nexus.config import Config
from nexus.data.batch import Batch, Fault, Masks, Sample
from nexus.data.datasets import ImageDataset
from nexus.data.images import ImageLimits
from nexus.data.masking import BlockMasker
from nexus.data.multicrop import MultiCropAugmentation, MultiCrops
from nexus.data.order import CROPS, MASKS, REPLACEMENTS, Order, StepSampler, generator
from nexus.errors import DataError, ImageError

_MAX_REPLACEMENTS = 100


class DataConfig(Config):
    """Where the images come from and how they are read."""

    source: str = ""
    """Folder, glob, list, tar, zip, pack or `synthetic:...`; `--data` sets it."""
    split: str | None = None
    """Which split of a source that has splits; left out: `train` if there is one, else everything."""
    workers: int = 10
    """Processes that read and crop images; 0 does it in the training process."""
    limits: ImageLimits = ImageLimits()
    """Images outside these limits are skipped and listed."""
    max_unreadable: float = 0.5
    """Training stops when more than this share of the images tried cannot be used."""


@dataclass(frozen=True)
class Cropped:
    """The crops drawn at one position of the stream, and the images that failed on the way to it."""

    position: int
    crops: MultiCrops
    faults: tuple[Fault, ...]


class CropStream(Dataset):
    """Position of the stream → crops. An unusable image is reported and replaced by a random other one."""

    def __init__(self, dataset: ImageDataset, augmentation: MultiCropAugmentation, order: Order) -> None:
        self.dataset = dataset
        self.augmentation = augmentation
        self.order = order

    def __getitem__(self, position: int) -> Cropped:
        sample, faults = self._sample(position)
        rng = generator(self.order.seed, CROPS, position)
        return Cropped(position, self.augmentation.crops(sample.image, rng), faults)

    def _sample(self, position: int) -> tuple[Sample, tuple[Fault, ...]]:
        faults: list[Fault] = []
        index = self.order[position]
        replacements = generator(self.order.seed, REPLACEMENTS, position)
        while len(faults) < _MAX_REPLACEMENTS:
            try:
                return self.dataset[index], tuple(faults)
            except ImageError as error:
                faults.append(Fault(error.name, error.reason))
                index = int(replacements.integers(len(self.dataset)))
        raise DataError(
            f"{_MAX_REPLACEMENTS} images in a row cannot be used; the last was {faults[-1].name} "
            f"({faults[-1].reason}). `nexus inspect DATA` shows what the source holds."
        )


class Collate:
    """Stack the crops of a micro-batch crop-major and draw its masks."""

    def __init__(self, masker: BlockMasker, seed: int) -> None:
        self.masker = masker
        self.seed = seed

    def __call__(self, items: Sequence[Cropped]) -> Batch:
        """The batch of one micro-batch; its masks depend on seed and position alone."""
        rng = generator(self.seed, MASKS, items[0].position)
        return Batch(
            global_crops=_crop_major([item.crops.global_crops for item in items]),
            local_crops=_crop_major([item.crops.local_crops for item in items]),
            masks=Masks.from_grid(self.masker.batch(2 * len(items), rng)),
            images=len(items),
            faults=tuple(fault for item in items for fault in item.faults),
        )


def _crop_major(crops: Sequence[torch.Tensor]) -> torch.Tensor:
    """`images` tensors (crops, chans, h, w) as (crops · images, chans, h, w), crop-major."""
    return torch.stack(list(crops), dim=1).flatten(0, 1)


def train_loader(
    stream: CropStream, collate: Collate, sampler: StepSampler, *, workers: int, pin_memory: bool
) -> DataLoader:
    """The batches of the remaining steps, in order; the same at any number of workers."""
    return DataLoader(
        stream,
        batch_sampler=sampler,
        collate_fn=collate,
        num_workers=workers,
        pin_memory=pin_memory,
        prefetch_factor=4 if workers else None,
        persistent_workers=False,
    )
