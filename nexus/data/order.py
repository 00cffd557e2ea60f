"""Which image is drawn when, as a pure function of the seed: nothing to save, nothing to restore.

The training stream is one endless sequence of positions 0, 1, 2, ... Position `p` of a data set of `n`
images lies in pass `p // n`; each pass is a fresh permutation. Step `s` with a global batch of `B` draws
positions `s·B .. s·B + B - 1`, split among the ranks, so every image is seen once a pass at any world
size, and a resumed run goes on exactly where it stopped.

A mixture of sources has such an order for each of them, and one more that says whose turn it is.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int64, Integer

CROPS, MASKS, REPLACEMENTS, TURNS, SOURCES, PROBE = 1, 2, 3, 4, 5, 6
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
    """The endless shuffled order of `size` images. `key` tells the orders of one seed apart."""

    def __init__(self, size: int, seed: int, key: tuple[int, ...] = (0,)) -> None:
        self.size = size
        self.seed = seed
        self.key = key
        self._passes = _Recent()

    def __getitem__(self, position: int) -> int:
        """Index of the image at `position`."""
        epoch, offset = divmod(position, self.size)
        permutation = self._passes.get(epoch)
        if permutation is None:
            permutation = self._passes.put(epoch, self._shuffled(epoch))
        return int(permutation[offset])

    def source(self, position: int) -> tuple[int, int]:
        """The indices, from the first up to but not including the second, of the images of its source."""
        return 0, self.size

    def _shuffled(self, epoch: int) -> Integer[np.ndarray, " images"]:
        order = np.random.default_rng((self.seed, *self.key, epoch)).permutation(self.size)
        return order.astype(np.int32) if self.size < 2**31 else order


class MixtureOrder(Order):
    """The endless order of several sources that lie one after the other, drawn in proportion to `weights`.

    Time is cut into blocks of `block` positions. After every block each source has been drawn
    `position * share` times, to within one; inside a block the turns are shuffled. The k-th draw of a source
    is position k of its own `Order`, so no image comes again before all others of its source came, and
    small sources repeat more often.
    """

    def __init__(self, sizes: Sequence[int], weights: Sequence[Fraction | float], seed: int) -> None:
        super().__init__(sum(sizes), seed)
        exact = [Fraction(str(weight)) for weight in weights]
        shares = [weight / sum(exact) for weight in exact]
        self.block = max(math.ceil(2 / min(shares)), 2)
        self._ends = [sum(shares[: i + 1], Fraction(0)) for i in range(len(shares))]
        self._starts = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
        self._orders = [Order(size, seed, (SOURCES, source)) for source, size in enumerate(sizes)]
        self._blocks = _Recent()

    def __getitem__(self, position: int) -> int:
        """Index of the image at `position`, counted over all sources."""
        source, turn = self._turn(position)
        return self._starts[source] + self._orders[source][turn]

    def source(self, position: int) -> tuple[int, int]:
        """The indices of the source whose turn it is."""
        source, _ = self._turn(position)
        return self._starts[source], self._starts[source + 1]

    def _turn(self, position: int) -> tuple[int, int]:
        """Which source's turn it is, and how often it was drawn before."""
        block, offset = divmod(position, self.block)
        turns = self._blocks.get(block)
        if turns is None:
            turns = self._blocks.put(block, self._turns(block))
        return int(turns[0, offset]), int(turns[1, offset])

    def _drawn(self, position: int) -> list[int]:
        """How often each source was drawn before `position`, a multiple of the block.

        Differences of rounded cumulative shares: they add up to `position` and are off by less than one.
        A block grants every source two turns on average, so no count falls from block to block.
        """
        ends = [0] + [math.floor(position * end + Fraction(1, 2)) for end in self._ends]
        return [high - low for low, high in itertools.pairwise(ends)]

    def _turns(self, block: int) -> Int64[np.ndarray, "2 turns"]:
        """For each position of a block: whose turn it is, and how often that source was drawn before."""
        before, after = self._drawn(block * self.block), self._drawn((block + 1) * self.block)
        turns = np.concatenate(
            [
                np.stack([np.full(b - a, s), np.arange(a, b)])
                for s, (a, b) in enumerate(zip(before, after, strict=True))
            ],
            axis=1,
        )
        shuffled = generator(self.seed, TURNS, block).permutation(turns[0])
        # The turns of one source keep their order in time; whose turn it is, is random.
        counts = turns[1][np.argsort(np.argsort(shuffled, kind="stable"), kind="stable")]
        return np.stack([shuffled, counts]).astype(np.int64)


class _Recent:
    """The two latest of something that is expensive to make; forgotten on the way to another process."""

    def __init__(self) -> None:
        self._kept: dict[int, np.ndarray] = {}

    def get(self, key: int) -> np.ndarray | None:
        return self._kept.get(key)

    def put(self, key: int, value: np.ndarray) -> np.ndarray:
        kept = [item for item in list(self._kept.items()) if item[0] != key]
        self._kept = dict([*kept[-1:], (key, value)])
        return value

    def __reduce__(self) -> tuple[type["_Recent"], tuple[()]]:
        return _Recent, ()


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
