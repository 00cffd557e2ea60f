"""Part of a data set, and a common way to look at the pictures of any data set."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from nexus.data.batch import Fault, Sample
from nexus.errors import DataError, ImageError

R = TypeVar("R")
T = TypeVar("T")

Progress = Callable[[int, int], None]
"""Called with (images done, images in all) from time to time."""

_CHUNK = 256

# What decoders raise for damaged files; anything else is a mistake in the data set's code and is passed on.
_DECODING = (ImageError, OSError, EOFError, SyntaxError, ValueError, Image.DecompressionBombError)


@runtime_checkable
class ImageSequence(Protocol):
    """Anything with a length whose items are PIL images, `Sample`s or tuples that begin with a PIL image."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class DatasetView(Dataset, Generic[R]):
    """The items `indices` of `dataset`, unchanged and in this order, and the `report` that says why these.

    `view[i]` is `dataset[view.indices[i]]`.
    """

    def __init__(self, dataset: ImageSequence, indices: Sequence[int], report: R) -> None:
        self.dataset = dataset
        self.indices = list(indices)
        self.report = report

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[self.indices[index]]

    def name(self, index: int) -> str:
        """The name of an image inside its source."""
        return item_name(self.dataset, self.indices[index])


def item_name(dataset: ImageSequence, index: int) -> str:
    """The name that the data set gives an image, its path in a torchvision folder, or its number."""
    name = getattr(dataset, "name", None)
    if callable(name):
        return str(name(index))
    samples = getattr(dataset, "samples", None)  # torchvision.datasets.ImageFolder
    return str(samples[index][0]) if samples else f"image {index}"


def picture(dataset: ImageSequence, index: int) -> Image.Image | Fault:
    """The decoded picture of an item, or why there is none.

    A folder of torchvision's is read before its transform. Raises `DataError` for items that hold no PIL
    image at all, such as tensors.
    """
    try:
        item = _before_transform(dataset, index)
        if isinstance(item, tuple | list) and item:
            item = item[0]
        image = item.image if isinstance(item, Sample) else item
        if isinstance(image, Image.Image):
            image.load()
            return image
    except ImageError as error:
        return Fault(error.name, error.reason)
    except _DECODING as error:
        return Fault(item_name(dataset, index), str(error) or type(error).__name__)
    raise DataError(
        f"item {index} of the data set holds {_kind(image)}, not a PIL image; pass the data set without "
        "its tensor transform and transform afterwards"
    )


def _before_transform(dataset: ImageSequence, index: int) -> Any:
    """The item; of a torchvision folder, also behind views, the image as its loader gives it."""
    if isinstance(dataset, DatasetView):
        return _before_transform(dataset.dataset, dataset.indices[index])
    samples, loader = getattr(dataset, "samples", None), getattr(dataset, "loader", None)
    return loader(samples[index][0]) if samples and callable(loader) else dataset[index]


def each_picture(
    dataset: ImageSequence,
    measure: Callable[[int, Image.Image | Fault], T],
    *,
    workers: int = 0,
    progress: Progress | None = None,
) -> Iterator[T]:
    """`measure(index, picture)` for every item in order; pictures are dropped at once.

    `workers` threads read at the same time; the data set must bear it.
    """

    def one(index: int) -> T:
        return measure(index, picture(dataset, index))

    count = len(dataset)
    with ThreadPoolExecutor(workers) if workers else nullcontext() as pool:
        for start in range(0, count, _CHUNK):
            chunk = range(start, min(start + _CHUNK, count))
            yield from pool.map(one, chunk) if pool else map(one, chunk)
            if progress is not None:
                progress(chunk.stop, count)


def _kind(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return "a numpy array"
    return f"a {type(value).__name__}"
