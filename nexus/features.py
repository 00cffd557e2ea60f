"""Frozen features: what a backbone says about every image of a data set.

Everything that uses a trained model (k-NN, linear probes, embeddings, retrieval, pictures) starts here::

    for rows in iterate(backbone, dataset):     one batch at a time, constant memory
    features = extract(backbone, dataset)       all of them, in the order of the data set

The features are those of the official evaluations: tokens after the final LayerNorm, CLS and patch mean,
not L2-normalised, computed on the central crop (resize 256, crop 224 or the same ratio at another size).
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from nexus.data.batch import Fault, Sample, normalize
from nexus.data.transforms import IMAGENET_MEAN, IMAGENET_STD, Channels, EvalTransform, as_rgb, to_tensor
from nexus.devices import pick_device
from nexus.errors import ConfigError, DataError, ImageError, unknown

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Called with (images done, images in all) after every batch."""

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
DEFAULT_SIZE = 224


@runtime_checkable
class Backbone(Protocol):
    """What an evaluation may ask of a model: the two calls of the official API, and two numbers.

    `get_intermediate_layers(x, n, return_class_token=True, norm=True)` returns the last `n` blocks in depth
    order as `(patches (B, N, D), cls (B, D))`, both after the final norm. It must be a `torch.nn.Module`.
    """

    @property
    def embed_dim(self) -> int:
        """Width `D` of a token."""

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels."""

    def forward_features(self, x: Any) -> Any:
        """Tokens by name: `x_norm_clstoken`, `x_norm_patchtokens`, ..."""

    def get_intermediate_layers(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """Tokens of several blocks."""


@runtime_checkable
class ImageSource(Protocol):
    """What an evaluation may ask of a data set; `nexus.data.datasets.ImageDataset` is one."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample:
        """One image, or an `ImageError`."""


@dataclass(frozen=True)
class FeatureRows:
    """The features of one batch, on the CPU in float32; unreadable images are in `faults` alone."""

    cls: Float[Tensor, "rows dim"]
    mean_patch: Float[Tensor, "rows dim"]
    layer_cls: Float[Tensor, "rows layers dim"]
    """CLS of the last blocks in depth order, all after the final norm; `[:, -1]` equals `cls`."""
    labels: Int[Tensor, " rows"]
    """-1 where an image has no label."""
    names: tuple[str, ...]
    faults: tuple[Fault, ...] = ()
    patches: Float[Tensor, "rows patches dim"] | None = None
    """Patch tokens row-major, only where asked for."""


@dataclass(frozen=True)
class Features:
    """The frozen features of a data set: one row per readable image, in the order of the data set."""

    cls: Float[Tensor, "samples dim"]
    """Normed CLS token, the feature of k-NN and retrieval."""
    mean_patch: Float[Tensor, "samples dim"]
    """Mean of the normed patch tokens."""
    layer_cls: Float[Tensor, "samples layers dim"]
    """CLS of the last blocks, in depth order, for the linear probe."""
    labels: Int[Tensor, " samples"] | None
    """Class indices, -1 for an unlabelled image; `None` when no image has a label."""
    names: tuple[str, ...]
    """Names of the images inside their source, row for row."""
    faults: tuple[Fault, ...] = field(default=(), repr=False)
    """The images that could not be read, and why."""
    size: int = 0
    """Side of the crops that were looked at, in pixels."""

    def __len__(self) -> int:
        return len(self.names)

    @property
    def paths(self) -> tuple[str, ...]:
        """The same as `names`: for folders, a name is the path inside the folder."""
        return self.names

    def rows(self, index: Int[Tensor, " picked"]) -> "Features":
        """Some of the rows, in the order of `index`."""
        return Features(
            cls=self.cls[index],
            mean_patch=self.mean_patch[index],
            layer_cls=self.layer_cls[index],
            labels=None if self.labels is None else self.labels[index],
            names=tuple(self.names[i] for i in index.tolist()),
            size=self.size,
        )


@dataclass(frozen=True, kw_only=True)
class View:
    """How images are shown to a backbone, and how it computes; one value for everything that extracts.

    `size` and `resize` in pixels, left out: the backbone's own `config.img_size` (or 224) and 256/224 of the
    size. A size that the patch does not divide is rounded to the nearest multiple and a log line says so.
    """

    size: int | None = None
    resize: int | None = None
    batch_size: int = 64
    workers: int = 0
    device: torch.device | str | None = None
    """`None`: where the backbone is; `"auto"`: the best there is. The backbone is moved there."""
    precision: str = "fp32"
    """`fp32`, or autocast to `bf16` or `fp16`; the features are float32 anyway."""
    mean: Channels | None = None
    """In 0..1; left out: the backbone's own `normalization` if it has one, else ImageNet's."""
    std: Channels | None = None

    def __post_init__(self) -> None:
        if self.precision not in ("fp32", *AUTOCAST):
            raise ConfigError(unknown("precision", self.precision, ("fp32", *AUTOCAST)))
        for name, least in (("size", 1), ("resize", 1), ("batch_size", 1), ("workers", 0)):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < least):
                raise ConfigError(f"{name}={value!r} must be a whole number, at least {least}")


def image_size(backbone: Backbone, size: int | None = None) -> int:
    """The side of the crops for a backbone: `size` or its own, as a multiple of its patch."""
    wanted = size or getattr(getattr(backbone, "config", None), "img_size", None) or DEFAULT_SIZE
    if not isinstance(wanted, int):
        wanted = min(wanted)
    patch = backbone.patch_size
    fitted = max(1, round(wanted / patch)) * patch
    if fitted != wanted:
        log.info("size=%d is no multiple of the patch (%d): using %d", wanted, patch, fitted)
    return fitted


def iterate(
    backbone: Backbone,
    dataset: ImageSource,
    view: View | None = None,
    *,
    layers: int = 1,
    patches: bool = False,
    flip: bool = False,
    progress: Progress | None = None,
) -> Iterator[FeatureRows]:
    """Yield the features of a data set batch by batch, in its order.

    The backbone is in eval mode between the first and the last batch and gets its training flags back
    afterwards, also when the caller stops early. `flip` mirrors every image left to right. `layers` is the
    number of last blocks in `layer_cls`, clipped to the depth of the backbone.
    """
    view = view or View()
    size = image_size(backbone, view.size)
    crop = EvalTransform(view.resize, size) if view.resize else EvalTransform.for_size(size)
    device = _place(backbone, view.device)
    mean, std = _normalization(backbone, view)
    layers = min(layers, getattr(backbone, "n_blocks", layers))
    done = 0
    with _eval_mode(backbone):
        for pixels, labels, names, faults in _load(dataset, crop, view):
            done += len(names) + len(faults)
            images = normalize(pixels.to(device, non_blocking=True), mean, std)
            tokens = _tokens(backbone, images.flip(-1) if flip else images, layers, view.precision)
            yield _rows(tokens, patches, labels, names, faults)
            if progress is not None:
                progress(done, len(dataset))


def extract(
    backbone: Backbone,
    dataset: ImageSource,
    view: View | None = None,
    *,
    layers: int = 1,
    flip: bool = False,
    progress: Progress | None = None,
    **settings: Any,
) -> Features:
    """The features of a whole data set, in its order, on the CPU in float32.

    `settings` are fields of `View` (`size=`, `batch_size=`, `device=`, `precision=`, ...) for those who do
    not need to keep one. Unreadable images are left out and listed in `faults`; when none can be read that
    is a `DataError`. Memory: the result, plus one batch.
    """
    view = make_view(view, settings)
    batches = iterate(backbone, dataset, view, layers=layers, flip=flip, progress=progress)
    return collect(batches, len(dataset), size=image_size(backbone, view.size))


def make_view(view: View | None, settings: dict[str, Any]) -> View:
    """`view`, or the one that `settings` describe; both at once, or an unknown name, is a `ConfigError`."""
    if view is not None and settings:
        raise ConfigError(f"{', '.join(settings)}: already said by view=; give one or the other")
    try:
        return view or View(**settings)
    except TypeError as error:
        raise ConfigError(f"{error}; a view has {', '.join(View.__annotations__)}") from None


def collect(batches: Iterator[FeatureRows], count: int, *, size: int = 0) -> Features:
    """The batches of `iterate` as one table of at most `count` rows."""
    table: dict[str, Tensor] = {}
    names: list[str] = []
    faults: list[Fault] = []
    for batch in batches:
        for key in ("cls", "mean_patch", "layer_cls", "labels"):
            rows: Tensor = getattr(batch, key)
            if key not in table:
                table[key] = rows.new_empty(count, *rows.shape[1:])
            table[key][len(names) : len(names) + len(rows)] = rows
        names += batch.names
        faults += batch.faults
    cut = {key: rows[: len(names)] for key, rows in table.items()}
    labels = cut.pop("labels")
    known = labels if bool((labels >= 0).any()) else None
    return Features(**cut, labels=known, names=tuple(names), faults=tuple(faults), size=size)


def raw_pixels(dataset: ImageSource, size: int = 32, *, workers: int = 0) -> Features:
    """The baseline every learned feature must beat: normalised pixels at `size` × `size`, flattened.

    All three feature fields hold the same `3 * size * size` numbers per image.
    """

    def flat() -> Iterator[FeatureRows]:
        mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
        view = View(workers=workers)
        for pixels, labels, names, faults in _load(dataset, partial(_shrink, size=size), view):
            rows = normalize(pixels, mean, std).flatten(1)
            yield FeatureRows(rows, rows, rows.unsqueeze(1), labels, names, faults)

    return collect(flat(), len(dataset), size=size)


# ---- from images to pixels ---------------------------------------------------------------------------


Loaded = tuple[Tensor, Tensor, tuple[str, ...], tuple[Fault, ...]]


def _shrink(image: Image.Image, size: int) -> Tensor:
    return to_tensor(as_rgb(image).resize((size, size), Image.Resampling.BOX))


class _Views(Dataset):
    """Index → (pixels, label, name), or the fault of an image that cannot be read."""

    def __init__(self, dataset: ImageSource, transform: Callable[[Image.Image], Tensor]) -> None:
        self.dataset = dataset
        self.transform = transform

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, int, str] | Fault:
        try:
            sample = self.dataset[index]
        except ImageError as error:
            return Fault(error.name, error.reason)
        return self.transform(sample.image), sample.label, sample.name


def _stack(items: Sequence[tuple[Tensor, int, str] | Fault]) -> Loaded:
    good = [item for item in items if not isinstance(item, Fault)]
    faults = tuple(item for item in items if isinstance(item, Fault))
    pixels = torch.stack([image for image, _, _ in good]) if good else torch.empty(0)
    labels = torch.tensor([label for _, label, _ in good], dtype=torch.int64)
    return pixels, labels, tuple(name for _, _, name in good), faults


def _load(dataset: ImageSource, transform: Callable[[Image.Image], Tensor], view: View) -> Iterator[Loaded]:
    """Batches in order. A batch without one readable image hands its faults to the next one or the last."""
    loader: DataLoader = DataLoader(
        _Views(dataset, transform),
        batch_size=view.batch_size,
        num_workers=view.workers,
        collate_fn=_stack,
        # Without this the loader draws its seed from the global stream and changes the caller's results.
        generator=torch.Generator(),
    )
    pending: tuple[Fault, ...] = ()
    held: Loaded | None = None
    for pixels, labels, names, faults in loader:
        if not names:
            pending += faults
            continue
        if held is not None:
            yield held
        held, pending = (pixels, labels, names, pending + faults), ()
    if held is not None:
        yield (*held[:3], held[3] + pending)
    else:
        first = f"; the first: {pending[0].name} ({pending[0].reason})" if pending else ""
        raise DataError(f"none of the {len(dataset)} images can be read{first}. `nexus inspect` lists them.")


# ---- from pixels to tokens ---------------------------------------------------------------------------

Tokens = tuple[tuple[Tensor, Tensor], ...]


@torch.inference_mode()
def _tokens(backbone: Backbone, images: Tensor, layers: int, precision: str) -> Tokens:
    with torch.autocast(images.device.type, dtype=AUTOCAST.get(precision), enabled=precision in AUTOCAST):
        return backbone.get_intermediate_layers(
            images, n=layers, reshape=False, return_class_token=True, norm=True
        )


def _rows(
    tokens: Tokens,
    patches: bool,
    labels: Tensor,
    names: tuple[str, ...],
    faults: tuple[Fault, ...],
) -> FeatureRows:
    last_patches, last_cls = tokens[-1]
    return FeatureRows(
        cls=last_cls.float().cpu(),
        mean_patch=last_patches.float().mean(dim=1).cpu(),
        layer_cls=torch.stack([cls.float() for _, cls in tokens], dim=1).cpu(),
        labels=labels,
        names=names,
        faults=faults,
        patches=last_patches.float().cpu() if patches else None,
    )


def _place(backbone: Backbone, device: torch.device | str | None) -> torch.device:
    module = _module(backbone)
    if device is not None:
        module.to(pick_device(device))
    first = next(module.parameters(), None)
    return torch.device("cpu") if first is None else first.device


def _normalization(backbone: Backbone, view: View) -> tuple[Tensor, Tensor]:
    own = getattr(backbone, "normalization", None)
    mean, std = own if own is not None else (IMAGENET_MEAN, IMAGENET_STD)
    return torch.tensor(view.mean or mean), torch.tensor(view.std or std)


@contextmanager
def _eval_mode(backbone: Backbone) -> Iterator[None]:
    """Eval mode inside; afterwards every submodule has the flag it had before."""
    module = _module(backbone)
    before = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in before:
            part.training = training


def _module(backbone: Backbone) -> torch.nn.Module:
    if not isinstance(backbone, torch.nn.Module):
        raise ConfigError(f"a backbone must be a torch.nn.Module, not {type(backbone).__name__}")
    return backbone
