"""Frozen features of a data set, batch by batch or as one table.

The features are those of the official evaluations: tokens after the final LayerNorm, CLS and patch mean,
not L2-normalised, computed on the central crop (resize 256, crop 224 or the same ratio at another size).
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from nexus.data.batch import Fault, normalize
from nexus.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from nexus.devices import pick_device
from nexus.errors import ConfigError, DataError
from nexus.features.native import NativeShrink, native_look
from nexus.features.outputs import Backbone, Parts, Wanted, depth_of, layer_parts, wanted_columns
from nexus.features.pixels import Group, ImageSource, Loaded, load, padding_for, shrink, transform_for
from nexus.features.tables import FeatureRows, Features, collect
from nexus.features.view import NATIVE, Progress, View, frame_size, make_view
from nexus.models.vision.fitting import apply_placement, fit_sentence, place

log = logging.getLogger(__name__)


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
    number of last blocks in `layer_cls`, clipped to the depth of the backbone. `patches` needs a view that
    shows all images in one size.
    """
    view = view or View()
    if patches and view.size == NATIVE:
        raise ConfigError("patches of images in their native sizes make no table; choose a size")
    depth = depth_of(backbone)
    blocks = list(range(max(0, depth - layers), depth))
    done = 0
    with prepared(backbone, view) as images_of:
        for batch in _with_rows(load(dataset, transform_for(backbone, view), view), len(dataset)):
            done += len(batch.names) + len(batch.faults)
            parts = []
            for group in batch.groups:
                images = images_of(group)
                tokens = layer_parts(backbone, images.flip(-1) if flip else images, blocks, view.precision)
                parts.append(_feature_columns(tokens, patches))
            columns = in_order(batch.groups, parts)
            yield FeatureRows(**columns, labels=batch.labels, names=batch.names, faults=batch.faults)
            if progress is not None:
                progress(done, len(dataset))


def iterate_columns(
    backbone: Backbone,
    dataset: ImageSource,
    view: View,
    wanted: Wanted,
    *,
    start: int = 0,
    flip: bool = False,
) -> Iterator[tuple[Loaded, list[dict[str, Tensor]]]]:
    """Yield each batch from image `start` on with the columns of each of its groups, on the CPU in float32.

    A batch without readable images comes too, with its faults, so that batch `k` always covers the same
    images. `flip` mirrors every image left to right. The backbone is in eval mode meanwhile, as in `iterate`.
    """
    said = view.size != NATIVE
    with prepared(backbone, view) as images_of:
        for batch in load(dataset, transform_for(backbone, view), view, start, pin=_on_gpu(backbone)):
            said = said or _say_fit(batch, backbone.patch_size, view.fit)
            found = []
            for group in batch.groups:
                images = images_of(group)
                images = images.flip(-1) if flip else images
                found.append(wanted_columns(backbone, images, wanted, view.precision))
            yield batch, [{name: rows.cpu() for name, rows in columns.items()} for columns in found]


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
    return collect(batches, len(dataset), size=side_of(backbone, view))


def raw_pixels(
    dataset: ImageSource, size: int = 32, *, workers: int = 0, like: Backbone | None = None
) -> Features:
    """The baseline every learned feature must beat: normalised pixels at `size` × `size`, flattened.

    All three feature fields hold the same `3 * size * size` numbers per image; where `like` takes native
    channels, as many as there are of these, normalised as it wants them.
    """
    view, look = View(workers=workers), native_look(like)
    shown = partial(shrink, size=size) if look is None else NativeShrink.of(look, size, view)

    def flat() -> Iterator[FeatureRows]:
        mean, std = normalization_of(None if look is None else like, view)
        batches = load(dataset, shown, view)
        for batch in _with_rows(batches, len(dataset)):
            (group,) = batch.groups
            rows = normalize(group.pixels, mean, std).flatten(1)
            yield FeatureRows(rows, rows, rows.unsqueeze(1), batch.labels, batch.names, batch.faults)

    return collect(flat(), len(dataset), size=size)


def in_order(groups: tuple[Group, ...], parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The columns of several groups as those of the batch, rows in the order of the source."""
    if len(parts) == 1:
        return parts[0]
    order = torch.tensor([row for group in groups for row in group.rows]).argsort()
    return {name: torch.cat([part[name] for part in parts])[order] for name in parts[0]}


@contextmanager
def prepared(backbone: Backbone, view: View) -> Iterator[Any]:
    """The backbone in its place and in eval mode; yields the function from a group to normalised images."""
    device = place_on(backbone, view.device)
    mean, std = normalization_of(backbone, view)

    def images_of(group: Group) -> Tensor:
        images = normalize(group.pixels.to(device, non_blocking=True), mean, std)
        placement = padding_for(backbone, view, group.pixels)
        return images if placement is None else apply_placement(images, placement)

    with eval_mode(backbone):
        yield images_of


def place_on(backbone: Any, device: torch.device | str | None) -> torch.device:
    """Move a backbone to a device, if one is named; the device where it is then."""
    module = _module(backbone)
    if device is not None:
        module.to(pick_device(device))
    first = next(module.parameters(), None)
    return torch.device("cpu") if first is None else first.device


def normalization_of(backbone: Any, view: View) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the channels: those of the view, the backbone, or ImageNet."""
    own = getattr(backbone, "normalization", None)
    mean, std = own if own is not None else (IMAGENET_MEAN, IMAGENET_STD)
    return torch.tensor(view.mean or mean), torch.tensor(view.std or std)


@contextmanager
def eval_mode(backbone: Any) -> Iterator[None]:
    """Eval mode inside; afterwards every submodule has the flag it had before."""
    module = _module(backbone)
    before = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in before:
            part.training = training


def _feature_columns(tokens: dict[int, Parts], patches: bool) -> dict[str, Any]:
    last = tokens[max(tokens)]
    found = {
        "cls": last["cls"].float().cpu(),
        "mean_patch": last["patches"].float().mean(dim=1).cpu(),
        "layer_cls": torch.stack([part["cls"].float() for part in tokens.values()], dim=1).cpu(),
    }
    return {**found, "patches": last["patches"].float().cpu()} if patches else found


def _with_rows(batches: Iterator[Loaded], count: int) -> Iterator[Loaded]:
    """Batches with rows. One without a readable image hands its faults to the next one or the last."""
    pending: tuple[Fault, ...] = ()
    held: Loaded | None = None
    for batch in batches:
        if not batch.names:
            pending += batch.faults
            continue
        if held is not None:
            yield held
        held = Loaded(batch.groups, batch.labels, batch.names, pending + batch.faults)
        pending = ()
    if held is None:
        raise nothing_readable(count, pending)
    yield Loaded(held.groups, held.labels, held.names, held.faults + pending)


def nothing_readable(count: int, faults: tuple[Fault, ...]) -> DataError:
    """The error for a data set without one readable image."""
    first = f"; the first: {faults[0].name} ({faults[0].reason})" if faults else ""
    return DataError(f"none of the {count} images can be read{first}. `nexus inspect` lists them.")


def _say_fit(batch: Loaded, patch: int, fit: str) -> bool:
    """Say what happens to the first image that is no whole patches; whether there was one."""
    sizes = (size for group in batch.groups for size in group.images)
    sentences = (fit_sentence(place(*size, patch, fit), fit) for size in sizes)
    sentence = next(filter(None, sentences), None)
    if sentence is not None:
        log.info("%s", sentence)
    return sentence is not None


def side_of(backbone: Backbone, view: View) -> int:
    """The side of square crops, 0 for other sizes."""
    if view.size == NATIVE:
        return 0
    height, width = frame_size(backbone, view)
    return height if height == width else 0


def _on_gpu(backbone: Any) -> bool:
    first = next(_module(backbone).parameters(), None)
    return first is not None and first.device.type == "cuda"


def _module(backbone: Any) -> torch.nn.Module:
    if not isinstance(backbone, torch.nn.Module):
        raise ConfigError(f"a backbone must be a torch.nn.Module, not {type(backbone).__name__}")
    return backbone
