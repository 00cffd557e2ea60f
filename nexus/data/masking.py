"""Block masks for the iBOT loss: which patches of the global crops the student does not see.

The distribution is the official one (BEiT's block-wise masking, stratified over the batch)::

    n      = int(crops * probability)                   # so many crops get a mask, the others none
    edges  = linspace(ratio_min, ratio_max, n + 1)
    target = int(patches * U(edges[i], edges[i + 1]))   # of masked crop i: hidden patches, at most
    hide rectangles in each masked crop until its target is met; shuffle the crops

Stratified means that every batch covers the whole range of ratios; at the defaults a masked crop
hides 0.298 of its patches on average. One correction: a rectangle may cover at most half of the
patches, exactly `rows * cols // 2`; the official code evaluates
`0.5 * size // patch * size // patch` from the left and gets 666 instead of 684 at 518/14 (where
size / patch is even it is right).
"""

import math
from collections.abc import Sequence
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Bool
from pydantic import Field, model_validator
from torch import Tensor

from nexus.config import Config
from nexus.data.order import MASKS, generator

TRIES = 10
"""Rectangles drawn per round before the masker settles for what it has."""

SMALLEST_BLOCK = 4
"""Patches of the smallest rectangle, on grids of 32 patches or more."""

LOG_ASPECT = math.log(1 / 0.3)
"""Rectangles are between 0.3 and 1/0.3 as high as wide, log-uniformly."""

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class MaskConfig(Config):
    """How many global crops are masked, and how much of each."""

    probability: Share = 0.5
    """Share of the global crops of a batch that get a mask; the other crops stay whole."""
    ratio_min: Share = 0.1
    """Share of the patches hidden in the least masked crop of a batch."""
    ratio_max: Share = 0.5
    """Share of the patches hidden in the most masked crop of a batch."""
    exact: bool = False
    """After the blocks, hide single patches at random until the target is met exactly."""

    @model_validator(mode="after")
    def _ordered(self) -> "MaskConfig":
        if self.ratio_min > self.ratio_max:
            raise ValueError(f"ratio_min={self.ratio_min} is above ratio_max={self.ratio_max}; exchange them")
        return self


class BlockMasker:
    """Draws the masks of a batch for crops of `rows` × `cols` patches.

    Tiny grids follow three milder rules, none of which touches grids of 6 × 6 and more: the
    smallest block is an eighth of the patches (4 × 4: two, 2 × 2: one) rather than four; along a
    side of one patch a block may span the side (else it must leave a row and a column free); and a
    crop chosen for masking has a target of at least one patch where `ratio_max` allows one.
    """

    def __init__(self, config: MaskConfig, rows: int, cols: int) -> None:
        self.config = config
        self.rows = rows
        self.cols = cols
        self.patches = rows * cols
        self.block_max = max(1, self.patches // 2)
        self.block_min = max(1, min(SMALLEST_BLOCK, self.patches // 8))

    def batch(
        self, crops: int, rng: np.random.Generator, wanted: Sequence[int] | None = None
    ) -> Bool[Tensor, "crops patches"]:
        """Masks of `crops` global crops; True is hidden. All randomness comes from `rng`.

        `wanted` are the crops whose masks are drawn, in the order of the result; left out, all. A mask
        does not depend on which others are drawn, so the parts of a batch get what the whole batch would.
        """
        targets = self.targets(crops, rng)
        chosen = rng.permutation(crops)[: len(targets)].tolist()
        seeds = rng.integers(2**63, size=len(targets)).tolist()
        drawn = dict(zip(chosen, zip(targets, seeds, strict=True), strict=True))
        wanted = range(crops) if wanted is None else wanted
        grid = np.zeros((len(wanted), self.patches), dtype=bool)
        for row, crop in enumerate(wanted):
            if crop in drawn:
                target, seed = drawn[crop]
                self._mask(grid[row], target, np.random.default_rng(seed))
        return torch.from_numpy(grid)

    def _mask(self, mask: Bool[np.ndarray, " patches"], target: int, rng: np.random.Generator) -> None:
        """The mask of one crop, in place."""
        self._blocks(mask.reshape(self.rows, self.cols), target, rng)
        if self.config.exact:
            _fill(mask, target, rng)

    def targets(self, crops: int, rng: np.random.Generator) -> list[int]:
        """Most patches to hide in each masked crop, ascending: one draw from each stratum."""
        count = int(crops * self.config.probability)
        edges = np.linspace(self.config.ratio_min, self.config.ratio_max, count + 1)
        ratios = edges[:-1] + (edges[1:] - edges[:-1]) * rng.random(count)
        least = min(1, int(self.patches * self.config.ratio_max))
        return [max(least, int(self.patches * ratio)) for ratio in ratios.tolist()]

    def _blocks(self, mask: Bool[np.ndarray, "rows cols"], target: int, rng: np.random.Generator) -> None:
        """Hide rectangles in `mask`, in place, until `target` is met or no other is found."""
        hidden = 0
        while hidden < target:
            added = self._block(mask, min(target - hidden, self.block_max), rng)
            if added == 0:
                return
            hidden += added

    def _block(self, mask: Bool[np.ndarray, "rows cols"], most: int, rng: np.random.Generator) -> int:
        """Hide one rectangle that adds 1..`most` patches; return how many, 0 if none was found."""
        for area, aspect, down, across in rng.random((TRIES, 4)).tolist():
            area = self.block_min + area * (most - self.block_min)
            aspect = math.exp(LOG_ASPECT * (2 * aspect - 1))
            height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if not (0 < height < max(self.rows, 2) and 0 < width < max(self.cols, 2)):
                continue
            top = int(down * (self.rows - height + 1))
            left = int(across * (self.cols - width + 1))
            block = mask[top : top + height, left : left + width]
            added = height * width - int(np.count_nonzero(block))
            if 0 < added <= most:
                block[:] = True
                return added
        return 0


def step_grid(
    masker: BlockMasker, seed: int, position: int, images: int, step_images: int | None = None
) -> Bool[Tensor, "crops patches"]:
    """The masks of the micro-batch at a position of the stream: those of its images in the whole step.

    A step has `step_images` (left out, `images`). A function of seed and position: other micro-batches and
    processes need not be asked.
    """
    step = step_images or images
    offset = position % step
    wanted = [crop * step + offset + image for crop in range(2) for image in range(images)]
    return masker.batch(2 * step, generator(seed, MASKS, position - offset), wanted)


def _fill(mask: Bool[np.ndarray, " patches"], target: int, rng: np.random.Generator) -> None:
    """Hide single patches at random, in place, until `target` are hidden."""
    free = np.flatnonzero(~mask)
    missing = target - (mask.size - free.size)
    mask[rng.choice(free, missing, replace=False)] = True
