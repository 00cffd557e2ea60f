"""What every source of images looks like to the rest of the package."""

import copy
import io
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64
from torch.utils.data import Dataset

from nexus.data.batch import Fault, Sample
from nexus.data.datasets.labels import Classes, Labels
from nexus.data.images import DEFAULT_LIMITS, ImageLimits, Stream, decode_image, image_header
from nexus.data.order import Order
from nexus.data.picture import RGB, EncodedPicture, Look, Picture


class ImageDataset(Dataset[Sample], ABC):
    """A numbered collection of images: `dataset[i]` is `Sample(image, name, index, label)`.

    `image` is an upright RGB PIL image; one that cannot be used raises `ImageError`, whatever is wrong
    with it. Nothing is open until the first read, and each process opens for itself, so a data set can be
    pickled, forked and spawned.

    labels       int64 (images,), -1 where unknown; None where the source has no labels at all
    classes      `classes[label]` is the name of a label
    description  one phrase for people: "folder imgs/, 12,345 images in 10 class folders"
    faults       entries found while listing that are not among the images: they cannot even be read
    limits       which images are refused
    look         what `picture(i)` makes of the stored values; set by `seen_as`
    """

    look: Look = RGB

    def __init__(
        self,
        description: str,
        limits: ImageLimits = DEFAULT_LIMITS,
        labels: Labels | None = None,
        classes: Classes = (),
        faults: tuple[Fault, ...] = (),
    ) -> None:
        self.description = description
        self.limits = limits
        self.labels = labels
        self.classes = classes
        self.faults = faults

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def name(self, i: int) -> str:
        """The name of image `i`, different from that of every other image of the source."""

    @abstractmethod
    def read(self, i: int) -> bytes:
        """The encoded bytes of image `i`, or `ImageError`."""

    def stored(self, i: int) -> bytes:
        """What image `i` is made from, to recognise it by, not to decode it; `ImageError` like `read`."""
        return self.read(i)

    def file(self, i: int) -> str | None:
        """The local file that image `i` is read from; None where there is none, or not only one."""
        return None

    def stream(self, i: int) -> Stream:
        """A seekable stream over `read(i)`; sources that need not read everything override it."""
        return io.BytesIO(self.read(i))

    def header(self, i: int) -> tuple[int, int, str]:
        """`(width, height, mode)` of image `i` without decoding it, or `ImageError`."""
        with self.stream(i) as stream:
            return image_header(stream, self.name(i), self.limits)

    def picture(self, i: int) -> Picture:
        """Image `i` before anything is done to it, for the crop engine; raises `ImageError` like `read`.

        Sources that hold arrays instead of files override it and return an `ArrayPicture`.
        """
        return EncodedPicture(self.read(i), self.name(i), self.limits, self.look)

    def seen_as(self, look: Look) -> "ImageDataset":
        """The same images, of which `picture(i)` has the pixels that `look` describes."""
        other = copy.copy(self)
        other.look = look
        return other

    def label(self, i: int) -> int:
        """The label of image `i`; -1 where it is unknown."""
        return -1 if self.labels is None else int(self.labels[i])

    def order(self, seed: int) -> Order:
        """The order in which training draws the images: shuffled, each once a pass."""
        return Order(len(self), seed)

    def __getitem__(self, i: int) -> Sample:
        i = self._position(i)
        name = self.name(i)
        image = decode_image(self.read(i), name, self.limits)
        return Sample(image=image, name=name, index=i, label=self.label(i))

    def subset(self, indices: Sequence[int] | Int64[np.ndarray, " subset"]) -> "ImageDataset":
        """The images at `indices`, in that order, as a data set of their own (same classes)."""
        return Subset(self, np.asarray(indices, dtype=np.int64).reshape(-1))

    def _position(self, i: int) -> int:
        """`i` counted from the front. `IndexError` is what ends a `for` loop over the data set."""
        if not -len(self) <= i < len(self):
            raise IndexError(f"image {i} of a data set of {len(self)}")
        return i % len(self)


class Subset(ImageDataset):
    """Some images of another data set; made by `ImageDataset.subset`. `index` counts in the subset."""

    def __init__(self, base: ImageDataset, indices: Int64[np.ndarray, " subset"]) -> None:
        if indices.size and not (indices.min() >= 0 and indices.max() < len(base)):
            raise IndexError(f"indices {indices.min()}..{indices.max()} of {len(base)} images")
        labels = None if base.labels is None else base.labels[indices]
        description = f"{len(indices):,} of {base.description}"
        super().__init__(description, base.limits, labels, base.classes, base.faults)
        self.look = base.look
        self.base = base
        self.indices = indices

    def __len__(self) -> int:
        return len(self.indices)

    def name(self, i: int) -> str:
        """The name in the base data set."""
        return self.base.name(int(self.indices[i]))

    def read(self, i: int) -> bytes:
        """The bytes in the base data set."""
        return self.base.read(int(self.indices[i]))

    def stored(self, i: int) -> bytes:
        """What the base data set has stored."""
        return self.base.stored(int(self.indices[i]))

    def file(self, i: int) -> str | None:
        """The file in the base data set."""
        return self.base.file(int(self.indices[i]))

    def stream(self, i: int) -> Stream:
        """The stream of the base data set."""
        return self.base.stream(int(self.indices[i]))

    def header(self, i: int) -> tuple[int, int, str]:
        """The header in the base data set."""
        return self.base.header(int(self.indices[i]))

    def picture(self, i: int) -> Picture:
        """The picture of the base data set."""
        return self.base.picture(int(self.indices[i]))

    def seen_as(self, look: Look) -> "ImageDataset":
        """The same part of the base data set, seen that way."""
        other = copy.copy(self)
        other.look = look
        other.base = self.base.seen_as(look)
        return other

    def __getitem__(self, i: int) -> Sample:
        i = self._position(i)
        sample = self.base[int(self.indices[i])]
        return Sample(image=sample.image, name=sample.name, index=i, label=sample.label)
