"""Which image is drawn when, as a pure function of the seed: nothing to save, nothing to restore.

The training stream is one endless sequence of positions 0, 1, 2, ... Position `p` of a data set of `n`
images lies in pass `p // n`; each pass is a fresh permutation. Step `s` with a global batch of `B` draws
positions `s·B .. s·B + B - 1`, split among the ranks, so every image is seen once a pass at any world
size, and a resumed run goes on exactly where it stopped.
"""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from jaxtyping import Float

CROPS, MASKS, REPLACEMENTS = 1, 2, 3
"""Independent random streams of a run, beside the order of the images (0)."""


def generator(seed: int, stream: int, position: int) -> np.random.Generator:
    """The random generator that belongs to one position of one stream."""
    return np.random.default_rng((seed, stream, position))


def uniforms(seed: int, stream: int, first: int, count: int, width: int) -> Float[np.ndarray, "count width"]:
    """`width` uniform numbers in [0, 1) for each of `count` positions from `first` on.

    What belongs to a position does not depend on the others: Philox counts, and each position owns a stretch
    of its counter. `width` is a multiple of 4, the numbers that one count yields.
    """
    assert width % 4 == 0
    counter = first * (width // 4)
    bits = np.random.Philox(key=_key(seed, stream), counter=[counter, 0, 0, 0])
    return np.random.Generator(bits).random((count, width))


@lru_cache(maxsize=8)
def _key(seed: int, stream: int) -> np.ndarray:
    return np.random.SeedSequence((seed, stream)).generate_state(2, np.uint64)


class Order:
    """The endless shuffled order of `size` images."""

    def __init__(self, size: int, seed: int) -> None:
        self.size = size
        self.seed = seed

    def __getitem__(self, position: int) -> int:
        """Index of the image at `position`."""
        epoch, offset = divmod(position, self.size)
        return int(_permutation(self.size, self.seed, epoch)[offset])


@lru_cache(maxsize=2)
def _permutation(size: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, 0, epoch)).permutation(size)


class StepSampler:
    """Positions of one rank's micro-batches, from `start_step` to `steps`, in the form a DataLoader takes."""

    def __init__(
        self,
        *,
        start_step: int,
        steps: int,
        micro_batch: int,
        accumulation: int = 1,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.start_step = start_step
        self.steps = steps
        self.micro_batch = micro_batch
        self.accumulation = accumulation
        self.rank = rank
        self.world_size = world_size

    def __len__(self) -> int:
        return max(self.steps - self.start_step, 0) * self.accumulation

    def __iter__(self) -> Iterator[list[int]]:
        micro_batches = self.accumulation * self.world_size
        for step in range(self.start_step, self.steps):
            for turn in range(self.accumulation):
                block = (step * micro_batches) + turn * self.world_size + self.rank
                first = block * self.micro_batch
                yield list(range(first, first + self.micro_batch))
