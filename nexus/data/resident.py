"""Small data sets whole on the device: one tensor of all images, from which every batch is cut there.

For images of one size that fit in memory, such as CIFAR's. The decisions are those of the other engines at
the same seed and position, so the pixels are too, to a grey level here and there.
"""

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from nexus.data.batch import Batch, Fault, Masks
from nexus.data.crops.config import CropConfig
from nexus.data.crops.parameters import UNIFORMS, CropDrawer, CropTable
from nexus.data.crops.plan import colour_plan
from nexus.data.crops.resample import cut_batch
from nexus.data.datasets import ImageDataset
from nexus.data.masking import BlockMasker, step_grid
from nexus.data.order import CROPS, Order, uniforms
from nexus.data.replacing import first_usable
from nexus.errors import ImageError


@dataclass(frozen=True)
class ResidentImages:
    """All images of a data set on a device. Those that cannot be used are black, and `faults` says why."""

    pixels: UInt8[Tensor, "images height chans width"]
    """Row by row, the channels inside, as `cut_batch` takes them."""
    faults: dict[int, Fault]

    @classmethod
    def read(cls, dataset: ImageDataset, device: torch.device) -> "ResidentImages":
        """Decode everything. An image of another size than the first good one is a fault."""
        faults: dict[int, Fault] = {}
        pixels: np.ndarray | None = None
        for index in range(len(dataset)):
            try:
                image = dataset.picture(index).pixels()
                if image.dtype != np.uint8:
                    raise ImageError(dataset.name(index), "deeper than 8 bits; data.engine=cpu takes it")
                if pixels is None:
                    pixels = np.zeros((len(dataset), *image.shape), dtype=np.uint8)
                if image.shape != pixels.shape[1:]:
                    raise ImageError(dataset.name(index), _other_size(image, pixels[0]))
                pixels[index] = image
            except ImageError as error:
                faults[index] = Fault(error.name, error.reason)
        if pixels is None:  # the first position that is asked for will say so
            pixels = np.zeros((len(dataset), 1, 1, 3), dtype=np.uint8)
        inside = np.ascontiguousarray(pixels.transpose(0, 1, 3, 2))
        return cls(torch.from_numpy(inside).to(device), faults)

    def usable(self, index: int) -> int:
        """The index itself; raises the `ImageError` of an image that cannot be used."""
        if index in self.faults:
            raise ImageError(self.faults[index].name, self.faults[index].reason)
        return index


def _other_size(image: np.ndarray, first: np.ndarray) -> str:
    (height, width), (high, wide) = image.shape[:2], first.shape[:2]
    return (
        f"{width} x {height} pixels where others have {wide} x {high}; "
        "data.engine=cpu takes images of any size"
    )


class ResidentBatches:
    """The batches of a run, made on the device that holds the images; not normalised.

    As `nexus.data.loader.train_batches` of a stream: what comes at a position depends on the seed alone.
    """

    def __init__(
        self,
        images: ResidentImages,
        config: CropConfig,
        order: Order,
        masker: BlockMasker,
        step_images: int | None = None,
    ) -> None:
        self.images = images
        self.config = config
        self.order = order
        self.masker = masker
        self.step_images = step_images
        self.draw = CropDrawer(config)

    def __call__(self, micro_batches: Iterable[Sequence[int]]) -> Generator[Batch]:
        """One batch for each list of consecutive positions."""
        for positions in micro_batches:
            yield self.batch(positions)

    def batch(self, positions: Sequence[int]) -> Batch:
        """The batch of consecutive positions, coloured already."""
        seed, count = self.order.seed, len(positions)
        found = [first_usable(self.order, position, self.images.usable) for position in positions]
        drawn = uniforms(seed, CROPS, positions[0], count, len(self.draw.kinds) * UNIFORMS)
        _, height, chans, width = self.images.pixels.shape
        table = self.draw((width, height), drawn.reshape(-1, UNIFORMS))
        large, small = table.by_size(count)
        device = self.images.pixels.device
        rows = torch.tensor([index for index, _ in found], device=device)
        grid = step_grid(self.masker, seed, positions[0], count, self.step_images)
        plans = [colour_plan(part, self.config, chans) for part in (large, small)]
        return Batch(
            global_crops=self._cut(rows.repeat(2), large, self.config.global_size),
            local_crops=self._cut(rows.repeat(self.config.local_number), small, self.config.local_size),
            masks=Masks.from_grid(grid),
            images=count,
            faults=tuple(fault for _, faults in found for fault in faults),
            colours=(plans[0], plans[1]),
        ).to(device)

    def _cut(
        self, rows: Int[Tensor, " crops"], table: CropTable, side: int
    ) -> UInt8[Tensor, "crops chans side side"]:
        device = self.images.pixels.device
        boxes = torch.from_numpy(table.boxes).to(device)
        flips = np.stack([table.flip, table.vertical_flip, table.transpose], axis=1)
        return cut_batch(self.images.pixels[rows], boxes, torch.from_numpy(flips).to(device), side)
