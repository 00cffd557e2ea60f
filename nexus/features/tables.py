"""Features of a data set: one batch of rows, or the whole table."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nexus.data.batch import Fault


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
    """Side of the crops that were looked at, in pixels; 0 where they were not square."""

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


def joined_features(parts: Sequence[Features]) -> Features:
    """Consecutive parts of a data set as one table; at least one, with labels in all or in none."""
    if len(parts) == 1:
        return parts[0]
    labels = [part.labels for part in parts if part.labels is not None]
    return Features(
        cls=torch.cat([part.cls for part in parts]),
        mean_patch=torch.cat([part.mean_patch for part in parts]),
        layer_cls=torch.cat([part.layer_cls for part in parts]),
        labels=torch.cat(labels) if labels else None,
        names=tuple(name for part in parts for name in part.names),
        faults=tuple(fault for part in parts for fault in part.faults),
        size=parts[0].size,
    )


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
