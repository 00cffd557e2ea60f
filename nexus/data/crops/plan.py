"""Which rows of a tensor of crops still need which colours: made on the host, carried out on the device.

Index lists and factors travel in two small tensors. Their lengths are known on the host, so nothing that the
device does depends on a value that the host would have to wait for.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from nexus.data.crops.config import CropConfig
from nexus.data.crops.parameters import OPERATIONS, CropTable

JITTER_STEPS = len(OPERATIONS)
_BRIGHTNESS, _CONTRAST, _SATURATION, _HUE = range(JITTER_STEPS)


Group = tuple[Int[Tensor, " rows"], Float[Tensor, "rows numbers"]]
"""Rows that are treated alike, and the numbers that belong to each."""


@dataclass(frozen=True)
class ColourPlan:
    """Groups of rows, in the order in which they are treated, and the numbers that belong to each row.

    `JITTER_STEPS` times a blend (factor, share of the mean, share of the grey) and a turn of the hue (turns);
    then grey, blur (a kernel) and solarization.
    """

    rows: Int[Tensor, " all_rows"]
    values: Float[Tensor, " all_values"]
    sizes: tuple[int, ...]
    """Rows in each group."""
    widths: tuple[int, ...]
    """Numbers for each row of a group."""
    threshold: int
    """Solarization inverts values from this one on, 0..255."""

    def groups(self) -> list[Group]:
        """The rows and numbers of each group, as views."""
        lengths = [size * width for size, width in zip(self.sizes, self.widths, strict=True)]
        values = self.values.split(lengths)
        shaped = [
            part.view(size, -1) if size else part.view(0, 1)
            for part, size in zip(values, self.sizes, strict=True)
        ]
        return list(zip(self.rows.split(self.sizes), shaped, strict=True))

    def moved(self, move: Callable[[Tensor], Tensor]) -> "ColourPlan":
        """The same plan with its tensors elsewhere."""
        return replace(self, rows=move(self.rows), values=move(self.values))


def colour_plan(table: CropTable, config: CropConfig, chans: int) -> ColourPlan:
    """What the table says about the colours of its crops, which have `chans` channels."""
    order, factors = table.order, table.factors
    if chans != 3:  # what needs red, green and blue is left out
        order = np.where(np.isin(order, (_SATURATION, _HUE)), -1, order)
    rows: list[np.ndarray] = []
    values: list[np.ndarray] = []
    for step in range(JITTER_STEPS):
        if step >= order.shape[1]:  # an operation of strength 0 has no column
            rows += [np.empty(0, np.int64)] * 2
            values += [np.empty((0, 3)), np.empty((0, 1))]
            continue
        operation = order[:, step]
        blended = np.flatnonzero((operation >= 0) & (operation != _HUE))
        kind = operation[blended]
        rows.append(blended)
        values.append(np.stack([factors[blended, step], kind == _CONTRAST, kind == _SATURATION], axis=1))
        turned = np.flatnonzero(operation == _HUE)
        rows.append(turned)
        values.append(factors[turned, step : step + 1])
    blurred = np.flatnonzero(table.blur > 0)
    rows += [np.flatnonzero(table.grayscale & (chans == 3)), blurred, np.flatnonzero(table.solarize)]
    values += [np.empty((len(rows[-3]), 0)), kernels(table.blur[blurred], config.blur_kernel)]
    values.append(np.empty((len(rows[-1]), 0)))
    return ColourPlan(
        rows=torch.from_numpy(np.concatenate(rows)),
        values=torch.from_numpy(np.concatenate([part.reshape(-1) for part in values]).astype(np.float32)),
        sizes=tuple(len(part) for part in rows),
        widths=tuple(part.shape[1] for part in values),
        threshold=config.solarize_threshold,
    )


def kernels(sigmas: Float[np.ndarray, " rows"], width: int) -> Float[np.ndarray, "rows width"]:
    """Normalised samples of Gaussians of `sigmas` pixels, one a row."""
    offsets = np.arange(width) - width // 2
    samples = np.exp(-0.5 * (offsets / sigmas[:, None]) ** 2)
    return samples / samples.sum(axis=1, keepdims=True)
