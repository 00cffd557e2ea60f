"""Which labelled images to learn from and which to test on."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from nexus.data.datasets import ImageDataset, available_splits, open_dataset
from nexus.data.datasets.splits import canonical
from nexus.errors import DataError

TEST_SHARE = 0.2
SPLIT_SEED = 0

Spec = str | Path
Halves = tuple[ImageDataset, ImageDataset, str]


def labelled_splits(spec: Spec | Sequence[Spec], limit: int | None = None) -> Halves:
    """The training images, the test images, and one sentence that says how they were told apart.

    A source with a `train` and a `test` (or else `val`) split is taken as it is; anything else is split
    80 : 20, seeded and stratified by class. `limit` is the most images of either side, a seeded draw.
    Raises `DataError` where there are no labels.
    """
    splits = {canonical(name): name for name in reversed(available_splits(spec))}
    held_out = next((splits[name] for name in ("test", "val") if name in splits), None)
    if "train" in splits and held_out is not None:
        train, test = (_labelled(open_dataset(spec, name)) for name in (splits["train"], held_out))
        sides = _limited(train, limit), _limited(test, limit)
        return *sides, f"training on the split {splits['train']!r}, testing on {held_out!r}" + _cut(limit)
    return split_labelled(open_dataset(spec), limit=limit)


def split_labelled(dataset: ImageDataset, limit: int | None = None) -> Halves:
    """One labelled data set as 80 % to learn from and 20 % to test on, the same ones every time."""
    dataset = _labelled(dataset)
    kept, held = stratified(torch.as_tensor(dataset.labels), TEST_SHARE, SPLIT_SEED)
    if not len(held):
        raise DataError("no class has two labelled images, so nothing can be tested; label more images")
    train, test = dataset.subset(kept.numpy()), dataset.subset(held.numpy())
    sentence = "no test split: a fixed random fifth of each class is tested on, the rest is learned from"
    return _limited(train, limit), _limited(test, limit), sentence + _cut(limit)


def stratified(
    labels: Int[Tensor, " samples"], share: float, seed: int
) -> tuple[Int[Tensor, " kept"], Int[Tensor, " held"]]:
    """Rows to keep and rows to hold out: `share` of each class, at least one where it has two or more.

    Both ascending; a function of the labels and the seed alone.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    out = torch.zeros(len(labels), dtype=torch.bool)
    for value in labels.unique().tolist():
        members = order[labels[order] == value]
        count = max(1, round(share * len(members))) if len(members) > 1 else 0
        out[members[:count]] = True
    return (~out).nonzero().flatten(), out.nonzero().flatten()


def _labelled(dataset: ImageDataset) -> ImageDataset:
    labels = dataset.labels
    known = np.flatnonzero(labels >= 0) if labels is not None else np.empty(0, dtype=np.int64)
    if not len(known):
        raise DataError(
            f"{dataset.description} has no labels, and an evaluation needs them: put each class in a folder "
            "of its own, or give a CSV list with the columns path,label"
        )
    return dataset if len(known) == len(dataset) else dataset.subset(known)


def _limited(dataset: ImageDataset, limit: int | None) -> ImageDataset:
    if limit is None or len(dataset) <= limit:
        return dataset
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(SPLIT_SEED))
    return dataset.subset(order[:limit].sort().values.numpy())


def _cut(limit: int | None) -> str:
    return "" if limit is None else f" (at most {limit:,} images of each)"
