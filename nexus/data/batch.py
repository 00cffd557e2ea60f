"""What travels from the data to the model: `Sample` out of a source, `Batch` into a training step."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from nexus.data.crops.device import recolour_batch
from nexus.data.crops.plan import ColourPlan


@dataclass(frozen=True)
class Sample:
    """One image of a source. `label` is -1 where there is none; `name` is its name inside the source."""

    image: Any
    name: str
    index: int
    label: int = -1


@dataclass(frozen=True)
class Fault:
    """An image that could not be used: its name inside the source, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Masks:
    """Which patches of the global crops the student does not see (iBOT).

    `index` holds the flat positions of the hidden patches in the `crops * patches` table, ascending;
    `weight[i]` is 1 / (number of hidden patches in the crop of `index[i]`), so each masked crop weighs 1.
    """

    grid: Bool[Tensor, "crops patches"]
    index: Int[Tensor, " masked"]
    weight: Float[Tensor, " masked"]

    @classmethod
    def from_grid(cls, grid: Bool[Tensor, "crops patches"]) -> "Masks":
        """Derive the flat index and the weights from the boolean grid."""
        index = grid.flatten().nonzero().flatten()
        per_crop = grid.sum(dim=1, dtype=torch.float32).clamp(min=1.0)
        weight = (1.0 / per_crop).unsqueeze(1).expand(grid.shape)[grid]
        return cls(grid=grid, index=index, weight=weight)


@dataclass(frozen=True)
class Batch:
    """Crops and masks of one micro-batch, crop-major: row `c * images + b` is crop `c` of image `b`.

    As collated, crops are uint8, or float32 in 0..1 where the images are deeper; `normalize` makes them
    float. `local_crops` has zero rows where
    the recipe uses none.
    """

    global_crops: Shaped[Tensor, "global_rows chans height width"]
    local_crops: Shaped[Tensor, "local_rows chans local_height local_width"]
    masks: Masks
    images: int
    """Number of images `B`; there are 2B global and L·B local rows."""
    faults: tuple[Fault, ...] = ()
    colours: tuple[ColourPlan, ColourPlan] | None = None
    """What `recoloured` has yet to do to the global and the local crops; None: nothing."""

    @property
    def local_count(self) -> int:
        """Local crops per image."""
        return self.local_crops.shape[0] // self.images

    def pin_memory(self) -> "Batch":
        """The same batch in page-locked memory; the DataLoader calls this before a CUDA transfer."""
        masks = Masks(
            self.masks.grid.pin_memory(),
            self.masks.index.pin_memory(),
            self.masks.weight.pin_memory(),
        )
        return replace(
            self,
            global_crops=self.global_crops.pin_memory(),
            local_crops=self.local_crops.pin_memory(),
            masks=masks,
            colours=self._plans(torch.Tensor.pin_memory),
        )

    def to(self, device: torch.device, non_blocking: bool = False) -> "Batch":
        """The same batch on another device."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=non_blocking)

        masks = Masks(move(self.masks.grid), move(self.masks.index), move(self.masks.weight))
        return replace(
            self,
            global_crops=move(self.global_crops),
            local_crops=move(self.local_crops),
            masks=masks,
            colours=self._plans(move),
        )

    def _plans(self, move: Callable[[Tensor], Tensor]) -> tuple[ColourPlan, ColourPlan] | None:
        return (self.colours[0].moved(move), self.colours[1].moved(move)) if self.colours else None

    def recoloured(self) -> "Batch":
        """The batch with the colours that were left to the device."""
        if self.colours is None:
            return self
        large, small = self.colours
        return replace(
            self,
            global_crops=recolour_batch(self.global_crops, large),
            local_crops=recolour_batch(self.local_crops, small),
            colours=None,
        )

    def normalized(self, mean: Float[Tensor, " chans"], std: Float[Tensor, " chans"]) -> "Batch":
        """The crops as float32 `(x - mean) / std`, per channel, with `x` in 0..1."""
        return replace(
            self,
            global_crops=normalize(self.global_crops, mean, std),
            local_crops=normalize(self.local_crops, mean, std),
        )


def normalize(
    pixels: Shaped[Tensor, "rows chans height width"],
    mean: Float[Tensor, " chans"],
    std: Float[Tensor, " chans"],
) -> Float[Tensor, "rows chans height width"]:
    """`(x - mean) / std` in float32, on the device of `pixels`, where `x` is `unit(pixels)`."""
    mean = mean.to(pixels.device).view(1, -1, 1, 1)
    std = std.to(pixels.device).view(1, -1, 1, 1)
    return (unit(pixels) - mean) / std


def unit(pixels: Shaped[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """Bytes as float32 in 0..1; floats, which are in 0..1 already, as they are."""
    return pixels.float() / 255.0 if pixels.dtype == torch.uint8 else pixels.float()
