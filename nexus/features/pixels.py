"""From a data set to batches of bytes, in its order, with the unreadable images named."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Shaped
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from nexus.data.batch import Fault, Sample
from nexus.data.datasets import ImageDataset
from nexus.data.transforms import EvalTransform, as_rgb, to_tensor
from nexus.errors import ConfigError, ImageError
from nexus.features.ahead import one_ahead
from nexus.features.native import NativeTransform, native_look
from nexus.features.view import NATIVE, View, frame_size
from nexus.models.vision.fitting import Placement, Size, place

Transform = Callable[[Image.Image], Tensor]
AnyTransform = Transform | NativeTransform


@runtime_checkable
class ImageSource(Protocol):
    """What an evaluation may ask of a data set; `nexus.data.datasets.ImageDataset` is one."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample:
        """One image, or an `ImageError`."""


@dataclass(frozen=True)
class Group:
    """Images of a batch that have one size: their places in the batch, their bytes, what they were."""

    rows: tuple[int, ...]
    pixels: Shaped[Tensor, "group chans height width"]
    """Bytes, or of native channels float32 in 0..1."""
    images: tuple[Size, ...]
    """Height and width of the upright images in their files."""


@dataclass(frozen=True)
class Loaded:
    """One batch: `batch_size` successive images of the source, less the unreadable ones."""

    groups: tuple[Group, ...]
    labels: Tensor
    names: tuple[str, ...]
    faults: tuple[Fault, ...]

    def pin_memory(self) -> "Loaded":
        """The same in page-locked memory; the DataLoader calls this before a CUDA transfer."""
        groups = tuple(Group(g.rows, g.pixels.pin_memory(), g.images) for g in self.groups)
        return Loaded(groups, self.labels, self.names, self.faults)


def transform_for(backbone: Any, view: View) -> AnyTransform:
    """From an RGB image to the bytes that `backbone` is shown under `view`, but for padding.

    A backbone that was trained on native channels gets these, as does one of other than 1 or 3 channels.
    Another backbone of one channel sees the image in grey.
    """
    chans = getattr(getattr(backbone, "config", None), "in_chans", 3)
    native = native_look(backbone)
    if native is not None:
        frame = None if view.size == NATIVE else frame_size(backbone, view)
        return NativeTransform(native, frame, view, backbone.patch_size)
    look: Transform
    if view.size == NATIVE:
        look = partial(_native, patch=backbone.patch_size, fit=view.fit)
    else:
        height, width = frame_size(backbone, view)
        if isinstance(view.size, tuple):
            look = partial(_covered, height=height, width=width)
        else:
            look = EvalTransform(view.resize, height) if view.resize else EvalTransform.for_size(height)
    return partial(_grey, look=look) if chans == 1 else look


def padding_for(backbone: Any, view: View, pixels: Tensor) -> Placement | None:
    """What is left to do once these bytes are normalised, so that zero is the mean colour."""
    height, width = pixels.shape[-2:]
    if view.size == NATIVE and view.fit != "pad":
        return None
    placement = place(height, width, backbone.patch_size, view.fit)
    return None if placement.frame == placement.image else placement


def load(
    dataset: ImageSource, transform: AnyTransform, view: View, start: int = 0, *, pin: bool = False
) -> Iterator[Loaded]:
    """The batches of a data set from image `start` on, in order; also those without a readable image.

    Without workers a thread reads the next batch while the caller works on the current one.
    """
    views: Dataset
    if isinstance(transform, NativeTransform):
        views = _NativeViews(dataset, transform)
    else:
        views = _Views(dataset, transform)
    loader: DataLoader = DataLoader(
        views,
        batch_size=view.batch_size,
        sampler=range(start, len(dataset)),
        num_workers=view.workers,
        collate_fn=_batch,
        pin_memory=pin,
        # Without this the loader draws its seed from the global stream and changes the caller's results.
        generator=torch.Generator(),
    )
    return iter(loader) if view.workers else one_ahead(iter(loader))


def shrink(image: Image.Image, size: int) -> Tensor:
    """The bytes of a small square picture, each pixel the average of what it stands for."""
    return to_tensor(as_rgb(image).resize((size, size), Image.Resampling.BOX))


def _native(image: Image.Image, patch: int, fit: str) -> Tensor:
    """The whole image, resized or cropped onto whole patches."""
    image = as_rgb(image)
    placement = place(image.height, image.width, patch, fit)
    if placement.scaled != placement.image:
        image = image.resize(placement.scaled[::-1], Image.Resampling.BICUBIC)
    if fit == "crop" and placement.frame != placement.scaled:
        (top, left), (height, width) = placement.corner, placement.frame
        image = image.crop((-left, -top, width - left, height - top))
    return to_tensor(image)


def _covered(image: Image.Image, height: int, width: int) -> Tensor:
    """The largest central part of that aspect, resized (bicubic, antialiased)."""
    return to_tensor(ImageOps.fit(as_rgb(image), (width, height), Image.Resampling.BICUBIC))


def _grey(image: Image.Image, look: Transform) -> Tensor:
    """One channel: luma by ITU-R 601-2, which leaves grey pixels as they are."""
    return look(image.convert("L").convert("RGB"))[:1]


class _Views(Dataset):
    """Index → (pixels, sample without its image, size), or the fault of an image that cannot be used."""

    def __init__(self, dataset: ImageSource, transform: Transform) -> None:
        self.dataset = dataset
        self.transform = transform

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, int, str, Size] | Fault:
        try:
            sample = self.dataset[index]
            size = (sample.image.height, sample.image.width)
            return self.transform(sample.image), sample.label, sample.name, size
        except ImageError as error:
            return Fault(error.name, error.reason)
        except ConfigError as error:  # fit=crop or strict, and this image does not
            return Fault(sample.name, str(error))


class _NativeViews(Dataset):
    """As `_Views`, of the channels that are stored."""

    def __init__(self, dataset: ImageSource, transform: NativeTransform) -> None:
        if not isinstance(dataset, ImageDataset):
            raise ConfigError(
                f"the backbone takes native channels, which a {type(dataset).__name__} does not offer; pass "
                "a path, or arrays to nexus.embedding.embed_images"
            )
        self.dataset = dataset.seen_as(transform.look)
        self.transform = transform

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, int, str, Size] | Fault:
        name = self.dataset.name(index)
        try:
            pixels = self.dataset.picture(index).pixels()
            height, width = pixels.shape[:2]
            return self.transform(pixels), self.dataset.label(index), name, (height, width)
        except ImageError as error:
            return Fault(error.name, error.reason)
        except ConfigError as error:  # as above
            return Fault(name, str(error))


def _batch(items: Sequence[tuple[Tensor, int, str, Size] | Fault]) -> Loaded:
    good = [item for item in items if not isinstance(item, Fault)]
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for row, (pixels, *_) in enumerate(good):
        by_shape.setdefault(tuple(pixels.shape), []).append(row)
    groups = tuple(
        Group(tuple(rows), torch.stack([good[row][0] for row in rows]), tuple(good[row][3] for row in rows))
        for rows in by_shape.values()
    )
    return Loaded(
        groups,
        torch.tensor([label for _, label, _, _ in good], dtype=torch.int64),
        tuple(name for _, _, name, _ in good),
        tuple(item for item in items if isinstance(item, Fault)),
    )
