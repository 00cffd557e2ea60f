"""A recognised source: what `open_dataset` knows before it opens anything."""

from collections.abc import Callable
from dataclasses import dataclass

from nexus.data.datasets.base import ImageDataset
from nexus.data.datasets.splits import match_split
from nexus.data.images import ImageLimits


@dataclass(frozen=True)
class Source:
    """How to open a source, and which splits it has."""

    text: str
    open: Callable[[str | None, ImageLimits], ImageDataset]
    splits: Callable[[], tuple[str, ...]] = tuple


def whole(text: str, opener: Callable[[ImageLimits], ImageDataset]) -> Source:
    """A source without splits."""

    def open_it(split: str | None, limits: ImageLimits) -> ImageDataset:
        if split is not None:
            match_split(split, (), text)
        return opener(limits)

    return Source(text, open_it)
