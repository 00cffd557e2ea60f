"""From a data set to the `Batch`es of a training run: read, crop, mask, stack."""

import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import NonNegativeInt
from torch.utils.data import DataLoader, Dataset

from nexus.config import Config, Share
from nexus.data.batch import Batch, Fault
from nexus.data.crops.config import CropConfig
from nexus.data.crops.parameters import UNIFORMS, joined
from nexus.data.crops.plan import ColourPlan, colour_plan
from nexus.data.datasets import ImageDataset
from nexus.data.images import ImageLimits
from nexus.data.masking import BlockMasker, step_masks
from nexus.data.multicrop import MultiCropAugmentation, MultiCrops
from nexus.data.order import CROPS, Order, StepSampler, uniforms
from nexus.data.replacing import first_usable
from nexus.errors import NexusError, RunError


class DataConfig(Config):
    """Where the images come from and how they are read."""

    source: str = ""
    """Folder, glob, list, tar, zip, pack or `synthetic:...`; `--data` sets it."""
    split: str | None = None
    """Which split of a source that has splits; left out: `train` if there is one, else everything."""
    engine: Literal["cpu", "device", "resident"] = "cpu"
    """Where crops are made: `cpu`; `device` (cut by the CPU, coloured there); `resident` (all there)."""
    workers: NonNegativeInt = 10
    """Processes that read and crop images; 0 does it in the training process."""
    limits: ImageLimits = ImageLimits()
    """Images outside these limits are skipped and listed."""
    max_unreadable: Share = 0.5
    """Training stops when more than this share of the images tried cannot be used."""


class LoaderError(RunError):
    """The processes that read images died; the state of the run is sound."""


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
        count = len(self.augmentation.sides)
        drawn = uniforms(self.order.seed, CROPS, position, 1, count * UNIFORMS).reshape(count, UNIFORMS)

        def cropped(index: int) -> MultiCrops:
            return self.augmentation.of(self.dataset.picture(index), drawn)

        return Cropped(position, *first_usable(self.order, position, cropped))

    def __getitems__(self, positions: Sequence[int]) -> list[Cropped] | NexusError:
        """The crops of a micro-batch. An error travels as a value: raised, it would arrive as a traceback."""
        try:
            return [self[position] for position in positions]
        except NexusError as error:
            return error


class Collate:
    """Stack the crops of a micro-batch crop-major and draw its masks.

    With `colours_of` the batch carries what is left to the device, at those settings. `step_images` is the
    size of the whole step that a micro-batch belongs to; left out, it is one.
    """

    def __init__(
        self,
        masker: BlockMasker,
        seed: int,
        colours_of: CropConfig | None = None,
        step_images: int | None = None,
    ) -> None:
        self.masker = masker
        self.seed = seed
        self.colours_of = colours_of
        self.step_images = step_images

    def __call__(self, items: Sequence[Cropped] | NexusError) -> Batch | NexusError:
        """The batch of one micro-batch. Passes errors on.

        Its masks are those that its images have in the whole step, and depend on seed and position alone.
        """
        if isinstance(items, NexusError):
            return items
        return Batch(
            global_crops=_crop_major([item.crops.global_crops for item in items]),
            local_crops=_crop_major([item.crops.local_crops for item in items]),
            masks=step_masks(self.masker, self.seed, items[0].position, len(items), self.step_images),
            images=len(items),
            faults=tuple(fault for item in items for fault in item.faults),
            colours=self._colours(items) if self.colours_of else None,
        )

    def _colours(self, items: Sequence[Cropped]) -> tuple[ColourPlan, ColourPlan]:
        assert self.colours_of is not None
        table, chans = joined([item.crops.table for item in items]), items[0].crops.global_crops.shape[1]
        large, small = table.by_size(len(items))
        return colour_plan(large, self.colours_of, chans), colour_plan(small, self.colours_of, chans)


def _crop_major(crops: Sequence[torch.Tensor]) -> torch.Tensor:
    """`images` tensors (crops, chans, h, w) as (crops · images, chans, h, w), crop-major."""
    return torch.stack(list(crops), dim=1).flatten(0, 1)


def train_batches(
    stream: CropStream, collate: Collate, sampler: StepSampler, *, workers: int, pin_memory: bool
) -> Iterator[Batch]:
    """The batches of the remaining steps, in order; the same at any number of workers.

    Worker processes start at once and end when the iterator is closed. Raises `LoaderError` if one of them
    dies, and the errors of the data as they are.
    """
    loader = DataLoader(
        stream,
        batch_sampler=sampler,
        collate_fn=collate,
        num_workers=workers,
        pin_memory=pin_memory,
        prefetch_factor=4 if workers else None,
        persistent_workers=False,
        worker_init_fn=_leave_signals_to_the_trainer,
    )
    return _checked(_start(loader), workers)


def _leave_signals_to_the_trainer(worker: int) -> None:
    """Ctrl-C and a closed terminal reach every process, but only the trainer decides what they mean."""
    for name in ("SIGINT", "SIGHUP", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def _start(loader: DataLoader) -> Iterator[Any]:
    """Start the workers without torch's SIGCHLD handler.

    The handler raises wherever the trainer happens to be, in the middle of an update too. Without it a dead
    worker is noticed within seconds where its batch is awaited, and the state of the run is sound.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGCHLD"):
        return iter(loader)
    before = signal.getsignal(signal.SIGCHLD)
    batches = iter(loader)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL if before is None else before)
    return batches


def _checked(batches: Iterator[Any], workers: int) -> Iterator[Batch]:
    """The batches, with errors that travelled as values raised and dead workers explained."""
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except (RuntimeError, OSError, EOFError) as error:
            if not workers or "Original Traceback" in str(error):
                raise
            raise LoaderError(
                f"a process that reads images died ({str(error).partition(chr(10))[0]}). Most often memory "
                "ran out: lower data.workers, and in a container raise the shared memory (--shm-size)."
            ) from error
        if isinstance(batch, NexusError):
            raise batch
        yield batch
