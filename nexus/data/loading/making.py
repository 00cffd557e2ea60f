"""One micro-batch: read, crop, mask. The same wherever it is made, for it depends on positions alone."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Shaped

from nexus.data.batch import Batch, Fault, Masks
from nexus.data.crops.config import CropConfig
from nexus.data.crops.parameters import UNIFORMS, CropTable, joined
from nexus.data.crops.plan import ColourPlan, colour_plan
from nexus.data.datasets import ImageDataset
from nexus.data.loading.slots import Bytes
from nexus.data.masking import BlockMasker, step_grid
from nexus.data.multicrop import MultiCropAugmentation
from nexus.data.order import CROPS, Order, uniforms
from nexus.data.replacing import first_usable
from nexus.errors import ImageError

Memory = Callable[[int], Bytes]
"""Gives at least so many bytes to write a batch into."""

Watch = Callable[[int], None]
"""Is told the index of each image before it is tried."""

_ALIGNED = 64
"""Bytes; where the local crops begin."""


@dataclass(frozen=True)
class Layout:
    """How the crops of a batch lie in memory: all global ones crop-major, then all local ones."""

    images: int
    chans: int
    kind: str
    """Type of the numbers, in numpy's words: `uint8` or `float32`."""
    global_side: int
    local_side: int
    locals: int

    @property
    def bytes(self) -> int:
        """What a batch needs."""
        return self._begin + self._size(self.locals, self.local_side)

    @property
    def _begin(self) -> int:
        return -(-self._size(2, self.global_side) // _ALIGNED) * _ALIGNED

    def _size(self, crops: int, side: int) -> int:
        return crops * self.images * self.chans * side * side * np.dtype(self.kind).itemsize

    def arrays(
        self, memory: Bytes
    ) -> tuple[Shaped[np.ndarray, "2 images chans _ _"], Shaped[np.ndarray, "locals images chans _ _"]]:
        """Views of the memory: global and local crops."""
        small = self._size(self.locals, self.local_side)
        large = memory[: self._size(2, self.global_side)].view(self.kind)
        local = memory[self._begin : self._begin + small].view(self.kind)
        return (
            large.reshape(2, self.images, self.chans, self.global_side, self.global_side),
            local.reshape(self.locals, self.images, self.chans, self.local_side, self.local_side),
        )


@dataclass(frozen=True)
class Made:
    """A batch but for its pixels, which lie in memory by `layout`; made of numpy, so that it travels fast."""

    layout: Layout
    grid: Bool[np.ndarray, "crops patches"]
    faults: tuple[Fault, ...]
    colours: tuple["LoosePlan", "LoosePlan"] | None

    def batch(self, memory: Bytes) -> Batch:
        """The batch, whose crops are views of `memory`."""
        large, small = (torch.from_numpy(part).flatten(0, 1) for part in self.layout.arrays(memory))
        plans = [_tight(plan) for plan in self.colours or ()]
        return Batch(
            global_crops=large,
            local_crops=small,
            masks=Masks.from_grid(torch.from_numpy(self.grid)),
            images=self.layout.images,
            faults=self.faults,
            colours=(plans[0], plans[1]) if plans else None,
        )


LoosePlan = tuple[np.ndarray, np.ndarray, tuple[int, ...], tuple[int, ...], int]
"""The fields of a `ColourPlan` in order, as arrays: tensors take a hundred times as long to pickle."""


def _tight(plan: LoosePlan) -> ColourPlan:
    rows, values, sizes, widths, threshold = plan
    return ColourPlan(torch.from_numpy(rows), torch.from_numpy(values), sizes, widths, threshold)


def _loose(plan: ColourPlan) -> LoosePlan:
    return plan.rows.numpy(), plan.values.numpy(), plan.sizes, plan.widths, plan.threshold


class BatchMaker:
    """Positions of the stream → a batch. An unusable image is reported and replaced by a random other one.

    With `colours_of` the batch carries what is left to the device, at those settings. `step_images` is
    the size of the whole step that a micro-batch belongs to; left out, it is one. Raises the errors of
    `nexus.data.replacing.first_usable`.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        augmentation: MultiCropAugmentation,
        order: Order,
        masker: BlockMasker,
        colours_of: CropConfig | None = None,
        step_images: int | None = None,
    ) -> None:
        self.dataset = dataset
        self.augmentation = augmentation
        self.order = order
        self.masker = masker
        self.colours_of = colours_of
        self.step_images = step_images

    def guess(self, images: int) -> int:
        """The bytes that a batch of 8-bit RGB needs; another batch asks for more when it is known."""
        return self._layout(images, 3, np.dtype(np.uint8)).bytes

    def make(
        self,
        positions: Sequence[int],
        memory: Memory,
        watch: Watch = lambda index: None,
        refused: Mapping[int, str] | None = None,
    ) -> Made:
        """Write the crops of consecutive positions into `memory(bytes)`, and return the rest.

        `refused` says of some images, by index, why they are not even tried.
        """
        refused = refused or {}
        seed, count, crops = self.order.seed, len(positions), len(self.augmentation.sides)
        drawn = uniforms(seed, CROPS, positions[0], count, crops * UNIFORMS).reshape(count, crops, UNIFORMS)
        sheet = _Sheet(lambda chans, kind: self._layout(count, chans, kind), memory)
        tables: list[CropTable] = []
        faults: list[Fault] = []
        for place, position in enumerate(positions):

            def cropped(index: int, place: int = place) -> CropTable:
                watch(index)
                if index in refused:
                    raise ImageError(self.dataset.name(index), refused[index])
                picture = self.dataset.picture(index)
                rows = sheet.place(place, picture.name)
                return self.augmentation.of(picture, drawn[place], rows).table

            table, failed = first_usable(self.order, position, cropped)
            tables.append(table)
            faults += failed
        assert sheet.layout is not None
        grid = step_grid(self.masker, seed, positions[0], count, self.step_images)
        return Made(sheet.layout, grid.numpy(), tuple(faults), self._colours(tables, sheet.layout.chans))

    def _layout(self, images: int, chans: int, kind: np.dtype) -> Layout:
        config = self.augmentation.config
        return Layout(
            images, chans, kind.name, config.global_size, config.local_size, locals=config.local_number
        )

    def _colours(self, tables: Sequence[CropTable], chans: int) -> tuple[LoosePlan, LoosePlan] | None:
        if self.colours_of is None:
            return None
        large, small = joined(tables).by_size(len(tables))
        first, second = (_loose(colour_plan(part, self.colours_of, chans)) for part in (large, small))
        return first, second


@dataclass
class _Sheet:
    """The arrays of one batch; laid out when its first picture shows channels and type."""

    plan: Callable[[int, np.dtype], Layout]
    memory: Memory
    layout: Layout | None = None
    arrays: tuple[np.ndarray, ...] = field(default=())

    def place(self, number: int, name: str) -> Callable[[int, np.dtype], tuple[np.ndarray, np.ndarray]]:
        """Room for the crops of one image, as `MultiCropAugmentation.of` asks for it."""

        def room(chans: int, kind: np.dtype) -> tuple[np.ndarray, np.ndarray]:
            wanted = self.plan(chans, kind)
            if self.layout is None:
                self.arrays = wanted.arrays(self.memory(wanted.bytes))
                self.layout = wanted
            if wanted != self.layout:
                raise ImageError(
                    name,
                    f"{chans} channels of {kind.name} in a batch of {self.layout.chans} channels of "
                    f"{self.layout.kind}",
                )
            return self.arrays[0][:, number], self.arrays[1][:, number]

        return room
