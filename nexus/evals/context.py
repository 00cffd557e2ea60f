"""What every evaluation is given: a frozen backbone, the user's data, and features that all tasks share."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from nexus.data.batch import normalize
from nexus.embedding import FeatureCache
from nexus.embedding.shared import Table, half
from nexus.evals.pixels import PixelBackbone
from nexus.evals.splits import Halves, labelled_splits
from nexus.features import (
    Features,
    ImageFeatures,
    ImageSource,
    Progress,
    View,
    collect,
    extract,
    image_features,
    iterate,
    raw_pixels,
)
from nexus.features.extraction import normalization_of
from nexus.features.outputs import depth_of
from nexus.features.view import frame_size

CPU = torch.device("cpu")
Spec = str | Path | Sequence[str | Path]


@dataclass(frozen=True)
class PatchTable:
    """The patch tokens of a data set beside the other features, row for row."""

    features: Features
    patches: Float[Tensor, "samples patches dim"]
    """After the final norm, row-major, float16 on the CPU."""


@dataclass(frozen=True, kw_only=True)
class EvalContext:
    """One backbone, one data set, one way to look at it."""

    backbone: Any
    """A `nexus.features.Backbone`, in eval mode and on `device` in a task; the baseline's is pixels."""
    data: Spec
    """What the user named, unopened: each task reads its own kind of data from it."""
    view: View = field(default_factory=View)
    """Size, batch size, workers, precision; `image_features` and the like take them from here."""
    device: torch.device = CPU
    limit: int | None = None
    """Most images of either side, if the user wants to be quick."""
    seeds: int = 1
    """Trainings of whatever is trained, with seeds `config.seed`, + 1, ...: see `training_seeds`."""
    layers: int = 1
    """Last blocks that some task of this evaluation will ask for."""
    progress: Progress | None = None
    cache: FeatureCache | None = None
    """Where features are kept from one evaluation to the next."""
    _kept: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)
    """Splits, and features by data set and mirroring, for the tasks to come."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images that the backbone is shown."""
        return frame_size(self.backbone, self.view)

    @property
    def depth(self) -> int:
        """Blocks of the backbone; 1 of raw pixels. Ask for no more layers than that."""
        return depth_of(self.backbone)

    @property
    def is_baseline(self) -> bool:
        """Whether these are raw pixels."""
        return isinstance(self.backbone, PixelBackbone)

    def training_seeds(self, first: int = 0) -> range:
        """The seeds to train with."""
        return range(first, first + self.seeds)

    def labelled(self) -> Halves:
        """Training images, test images, and a sentence on how they were told apart; opened once."""
        if "labelled" not in self._kept:
            self._kept["labelled"] = labelled_splits(self.data, self.limit)
        return self._kept["labelled"]

    def features(
        self, dataset: ImageSource, *, layers: int = 1, flip: bool = False, keep: bool = True
    ) -> Features:
        """CLS of the last `layers` blocks and the mean patch of all images, extracted once for all tasks.

        Rows are in the order of the data set, unreadable images are in `faults`. `flip` mirrors every image.
        Layers are clipped to the depth of the backbone. Raw pixels are those of the whole image, 32 × 32.
        Without `keep` nobody else will ask for this data set, and the features are not kept in memory.
        """
        layers = min(max(layers, self.layers), self.depth)
        key = ("features", id(dataset), flip)
        _, found = self._kept.get(key, (None, None))
        if found is None or found.layer_cls.shape[1] < layers:
            found = self._extracted(dataset, layers, flip)
            if keep:
                self._kept[key] = dataset, found  # with the data set, whose id is not given to another then
        return found

    def patches(self, dataset: ImageSource, *, flip: bool = False) -> PatchTable:
        """The patch tokens of the last block for all images: two bytes a number, so mind their size.

        Tasks that look at large images run the backbone themselves, batch by batch: see `look`.
        """
        if (found := self._cached(dataset, 1, flip, patches=True)) is not None:
            features, patches = found
            assert patches is not None
            return PatchTable(features, patches)
        parts, tables = [], []
        for rows in iterate(
            self.backbone, dataset, self.view, patches=True, flip=flip, progress=self.progress
        ):
            assert rows.patches is not None
            parts.append(half(rows.patches))
            tables.append(replace(rows, patches=None))
        return PatchTable(collect(iter(tables), len(dataset)), torch.cat(parts))

    def normalized(
        self, pixels: UInt8[Tensor, "batch chans height width"]
    ) -> Float[Tensor, "batch chans height width"]:
        """Bytes of images as the backbone wants them, on `device`."""
        mean, std = normalization_of(self.backbone, self.view)
        return normalize(pixels.to(self.device, non_blocking=True), mean, std)

    def look(
        self, images: Float[Tensor, "batch chans height width"], layers: Sequence[int] = ()
    ) -> ImageFeatures:
        """Tokens and patch maps of normalised images of any size, under `view.precision`, for training on.

        `layers` as in `nexus.features.image_features`: counted from 1, or from the end with -1. Frozen: no
        gradient flows into the backbone, but what comes out may be trained on. `placement.unfit` brings a map
        back onto the pixels.
        """
        found = image_features(
            self.backbone, images, layers=layers, fit=self.view.fit, precision=self.view.precision
        )
        return _usable(found)

    def at_size(self, size: int) -> "EvalContext":
        """The same evaluation of square images with that side."""
        kept = {key: value for key, value in self._kept.items() if key == "labelled"}
        return replace(self, view=replace(self.view, size=size, resize=None), _kept=kept)

    def with_backbone(self, backbone: Any) -> "EvalContext":
        """The same evaluation of another backbone, on the same images."""
        kept = {key: value for key, value in self._kept.items() if key == "labelled"}
        return replace(self, backbone=backbone, _kept=kept)

    def on_pixels(self) -> "EvalContext":
        """The same evaluation of raw pixels."""
        return self.with_backbone(PixelBackbone(self.backbone).to(self.device))

    def prepared(self, halves: Halves, train: Features, test: Features) -> "EvalContext":
        """The same evaluation, whose labelled images and their features are known already."""
        kept: dict[Any, Any] = {"labelled": halves}
        for images, features in zip(halves[:2], (train, test), strict=True):
            kept["features", id(images), False] = images, features
        return replace(self, _kept=kept)

    def _extracted(self, dataset: ImageSource, layers: int, flip: bool) -> Features:
        if self.is_baseline:
            found = raw_pixels(dataset, workers=self.view.workers, like=self.backbone.like)
            return _mirrored(found) if flip else found
        if (kept := self._cached(dataset, layers, flip)) is not None:
            return kept[0]
        return extract(self.backbone, dataset, self.view, layers=layers, flip=flip, progress=self.progress)

    def _cached(self, dataset: ImageSource, layers: int, flip: bool, patches: bool = False) -> Table | None:
        """What the cache has or computes, where there is one and it can be used."""
        if self.cache is None or self.is_baseline:
            return None
        if "cached" not in self._kept:
            self._kept["cached"] = self.cache.of(self.backbone, self.view)
        return self._kept["cached"].table(
            dataset, layers=layers, flip=flip, patches=patches, progress=self.progress
        )


def _mirrored(pixels: Features) -> Features:
    """Raw pixels of the mirrored images."""
    side = pixels.size
    rows = pixels.cls.view(len(pixels), -1, side, side).flip(-1).flatten(1)
    return replace(pixels, cls=rows, mean_patch=rows, layer_cls=rows.unsqueeze(1))


def _usable(found: ImageFeatures) -> ImageFeatures:
    """Copies that autograd accepts: what inference mode made cannot be saved for a backward pass."""

    def copied(part: Any) -> Any:
        return replace(
            part, cls=part.cls.clone(), registers=part.registers.clone(), patches=part.patches.clone()
        )

    return replace(copied(found), layers={layer: copied(part) for layer, part in found.layers.items()})
