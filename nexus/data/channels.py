"""What the channels of a data set hold: how many, which values, and their mean and standard deviation.

Sums are in float64, image by image in the order of the data set, and merged as in Chan, Golub and LeVeque
(1979): exact to rounding, and the same at any number of threads. Pixels without data do not count.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64

from nexus.data.batch import Fault
from nexus.data.datasets.base import ImageDataset
from nexus.data.parallel import Progress, in_order
from nexus.data.picture import EncodedPicture, Look, ValueRange, usual_range
from nexus.errors import DataError, ImageError

SAMPLE = 128
"""Images that a training run looks at to find out about its channels."""

FLAT = 1e-6
"""A channel that varies less than this (of 0..1) is constant; its deviation counts as 1."""

_DIGITS = 6


@dataclass
class ChannelSums:
    """Pixels, mean and sum of squared differences from it, for each channel; in 0..1."""

    count: int
    mean: Float64[np.ndarray, " chans"]
    squares: Float64[np.ndarray, " chans"]

    @classmethod
    def of(cls, pixels: np.ndarray, valid: np.ndarray) -> "ChannelSums":
        """Those of one image: uint8, or floats in 0..1; (height, width, chans) where `valid`."""
        values = pixels.reshape(-1, pixels.shape[2]) if valid.all() else pixels[valid]
        if not len(values):
            return cls(0, np.zeros(pixels.shape[2]), np.zeros(pixels.shape[2]))
        if values.dtype == np.uint8:  # there are only 256 of them
            counts = np.stack([np.bincount(band, minlength=256) for band in values.T])
            levels = np.arange(256) / 255.0
            mean = counts @ levels / len(values)
            return cls(len(values), mean, (counts * np.square(levels - mean[:, None])).sum(axis=1))
        mean = values.mean(axis=0, dtype=np.float64)
        return cls(len(values), mean, np.square(values - mean).sum(axis=0))

    def merged(self, other: "ChannelSums") -> "ChannelSums":
        """Those of both."""
        count = self.count + other.count
        if not count:
            return self
        delta, share = other.mean - self.mean, other.count / count
        squares = self.squares + other.squares + np.square(delta) * (self.count * share)
        return ChannelSums(count, self.mean + delta * share, squares)


@dataclass(frozen=True)
class ChannelStats:
    """Mean and standard deviation of each channel, in 0..1, over all pixels with data."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    images: int
    """Images that were measured."""
    pixels: int
    """Pixels with data among theirs."""
    faults: tuple[Fault, ...] = field(default=(), repr=False)
    """Images that could not be used, and why."""


def channel_stats(
    dataset: ImageDataset,
    indices: Sequence[int] | None = None,
    *,
    workers: int = 0,
    progress: Progress | None = None,
) -> ChannelStats:
    """Measure the pixels of `dataset.picture(i)`, of all images or those at `indices`.

    Images of another number of channels than the first are faults. Raises `DataError` if none can be read.
    """
    chosen = range(len(dataset)) if indices is None else indices

    def sums(index: int) -> ChannelSums | Fault:
        try:
            picture = dataset.picture(index)
            pixels = picture.pixels()
            whole = isinstance(picture, EncodedPicture) and pixels.dtype == np.uint8
            valid = np.ones(pixels.shape[:2], dtype=bool) if whole else picture.valid()
            return ChannelSums.of(pixels, valid)
        except ImageError as error:
            return Fault(error.name, error.reason)

    total: ChannelSums | None = None
    faults: list[Fault] = []
    images = 0
    for index, found in zip(chosen, in_order(sums, chosen, workers, progress), strict=True):
        if not isinstance(found, Fault) and total is not None and len(found.mean) != len(total.mean):
            found = Fault(dataset.name(index), f"{len(found.mean)} channels, not {len(total.mean)}")
        if isinstance(found, Fault):
            faults.append(found)
        else:
            total, images = found if total is None else total.merged(found), images + 1
    if total is None or not total.count:
        reason = f": {faults[0].name}: {faults[0].reason}" if faults else ""
        raise DataError(f"no pixel of {dataset.description} can be measured{reason}")
    deviation = np.sqrt(total.squares / total.count)
    deviation[deviation < FLAT] = 1.0
    mean, std = (tuple(round(float(v), _DIGITS) for v in part) for part in (total.mean, deviation))
    return ChannelStats(mean, std, images, total.count, tuple(faults))


@dataclass(frozen=True)
class ChannelFacts:
    """What a look at some images of a data set says about its channels."""

    chans: int
    kinds: tuple[str, ...]
    """Types of the stored numbers."""
    value_range: ValueRange | None
    """The values that become 0 and 1, where neither the type nor the source says so."""
    stats: ChannelStats

    @property
    def deep(self) -> bool:
        """Whether pixels are floats; those of 8 bits are bytes."""
        return set(self.kinds) != {"uint8"}


def look_at_channels(
    dataset: ImageDataset, value_range: ValueRange | None = None, sample: int = SAMPLE
) -> ChannelFacts:
    """Find out about the native channels of a data set from `sample` images, evenly spread.

    `value_range` is what the user said about the values. Raises `DataError` where the images do not all
    have the same number of channels, naming two of them, or none can be read.
    """
    chosen = np.unique(np.linspace(0, len(dataset) - 1, min(sample, len(dataset))).astype(np.int64)).tolist()
    native = dataset.seen_as(Look("native", value_range))
    seen = _Seen()
    for index in chosen:
        try:
            picture = native.picture(index)
            seen.add(picture.name, picture.values(), said=picture.look.value_range is not None)
        except ImageError:
            continue  # the measurement names those that cannot be used
    span = seen.value_range() if value_range is None else value_range
    chans = seen.chans(dataset.description) if seen.names else 0
    stats = channel_stats(dataset.seen_as(Look("native", span)), chosen)
    return ChannelFacts(chans, tuple(sorted(seen.kinds)), span, stats)


class _Seen:
    """Numbers of channels, types and extremes of the images so far."""

    def __init__(self) -> None:
        self.names: dict[int, str] = {}
        self.kinds: set[str] = set()
        self.low, self.high = np.inf, -np.inf
        self.fixed = True

    def add(self, name: str, values: np.ndarray, *, said: bool) -> None:
        """Take in one image; `said`: its source says which values become 0 and 1."""
        self.names.setdefault(values.shape[2], name)
        self.kinds.add("uint8" if values.dtype == np.bool_ and not said else values.dtype.name)
        if said or values.dtype in (np.bool_, np.uint8, np.uint16):
            return
        finite = values[np.isfinite(values)]
        if finite.size:
            self.fixed = False
            self.low, self.high = min(self.low, float(finite.min())), max(self.high, float(finite.max()))

    def chans(self, what: str) -> int:
        """The one number of channels."""
        if len(self.names) > 1:
            one, other = list(self.names.items())[:2]
            raise DataError(
                f"the images of {what} have different numbers of channels: {one[1]} has {one[0]}, {other[1]} "
                f"has {other[0]}; train on one kind, choose bands with ?bands=, or leave data.channels=rgb"
            )
        return next(iter(self.names))

    def value_range(self) -> ValueRange | None:
        """The range for all images, from the values that were seen; None where the type says it."""
        if self.fixed:
            return None
        fractions = all(kind.startswith("float") for kind in self.kinds)
        return usual_range(self.low, self.high, fractions=fractions)
