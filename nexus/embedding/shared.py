"""One table of the feature cache: computed batch by batch, resumable, and read back.

The columns are those of `nexus.features.Features`, rows by position in the data set: names and labels are
taken from the data set when a table is read, so they may have changed.
"""

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nexus.data.batch import Fault
from nexus.data.datasets import ImageDataset
from nexus.embedding.partial import NAMES, STATE, PartialTable
from nexus.errors import WeightsError
from nexus.features import Features, Progress, View, Wanted
from nexus.features.extraction import in_order, iterate_columns, nothing_readable, side_of
from nexus.features.outputs import depth_of
from nexus.features.pixels import Loaded
from nexus.features.view import frame_size

log = logging.getLogger(__name__)

Table = tuple[Features, Float[Tensor, "samples patches dim"] | None]


@dataclass(frozen=True)
class FeatureTable:
    """Which features of which images: CLS of the last `layers` blocks, mean patch, and patch tokens maybe."""

    backbone: Any
    dataset: ImageDataset
    view: View
    made_of: dict[str, Any]
    layers: int
    patches: bool
    flip: bool

    @property
    def kind(self) -> str:
        """The end of its name: tables of another kind cannot serve instead."""
        return ".flip" * self.flip + ".patches" * self.patches

    def bytes(self) -> int:
        """About what it takes on the disk."""
        numbers = 4 * (self.layers + 1)
        if self.patches:
            height, width = frame_size(self.backbone, self.view)
            side = self.backbone.patch_size
            numbers += 2 * (height // side) * (width // side)
        return len(self.dataset) * numbers * self.backbone.embed_dim

    def compute(self, folder: Path, progress: Progress | None = None) -> None:
        """Compute all rows into `folder`, from where an earlier process stopped.

        Raises `DataError` without a readable image, `RunError` where the folder is damaged.
        """
        total = len(self.dataset)
        with PartialTable(folder, self.made_of) as table:
            table.resume(discard=True)
            if table.images:
                log.info("going on with the features at image %d of %d", table.images, total)
            with table.kept():
                for batch, columns in self._batches(table.images):
                    rows, faults = self._positions(batch, table.images)
                    arrays = self._arrays(batch, columns) if rows else {}
                    table.append(len(rows) + len(faults), [str(row) for row in rows], arrays, faults)
                    if progress is not None:
                        progress(table.images, total)
            if not table.rows:
                first = next(iter(table.faults()), None) if table.unreadable else None
                table.remove()
                raise nothing_readable(total, (self._named(first),) if first else ())
            table.commit()

    def read(self, folder: Path) -> Table:
        """A table on the disk with the names and labels that the images have now."""
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        for name, length in state["lengths"].items():
            if (folder / name).stat().st_size != length:
                raise ValueError(f"{name} has not the {length:,} bytes that were written")
        columns = {name: _mapped(folder / f"{name}.raw", *kind) for name, kind in state["columns"].items()}
        with PartialTable(folder, {}) as table:
            faults = [self._named(fault) for fault in table.faults()] if state["unreadable"] else []
        rows = [int(json.loads(line)) for line in (folder / NAMES).read_text().splitlines()]
        labels = torch.tensor([self.dataset.label(row) for row in rows])
        layer_cls = columns["layer_cls"][:, -self.layers :]
        features = Features(
            cls=layer_cls[:, -1].contiguous(),
            mean_patch=columns["mean_patch"],
            layer_cls=layer_cls,
            labels=labels if bool((labels >= 0).any()) else None,
            names=tuple(self.dataset.name(row) for row in rows),
            faults=tuple(faults),
            size=side_of(self.backbone, self.view),
        )
        return features, columns.get("patches")

    def _batches(self, start: int) -> Iterator[tuple[Loaded, list[dict[str, Tensor]]]]:
        depth = depth_of(self.backbone)
        blocks = tuple(range(depth - self.layers + 1, depth + 1))
        wanted = Wanted(("cls", "mean_patch", "patches")[: 2 + self.patches], blocks)
        return iterate_columns(self.backbone, self.dataset, self.view, wanted, start=start, flip=self.flip)

    def _arrays(self, batch: Loaded, columns: list[dict[str, Tensor]]) -> dict[str, np.ndarray]:
        found = in_order(batch.groups, columns)
        depth = depth_of(self.backbone)
        blocks = range(depth - self.layers + 1, depth + 1)
        arrays = {
            "layer_cls": torch.stack([found[f"cls_l{block}"] for block in blocks], dim=1).numpy(),
            "mean_patch": found[f"mean_patch_l{depth}"].numpy(),
        }
        if self.patches:
            arrays["patches"] = half(found[f"patches_l{depth}"]).numpy()
        return arrays

    def _positions(self, batch: Loaded, start: int) -> tuple[list[int], list[Fault]]:
        """Which images of the data set the rows of a batch are, and the faults by position."""
        rows: list[int] = []
        faults: list[Fault] = []
        for position in range(start, start + len(batch.names) + len(batch.faults)):
            if len(rows) < len(batch.names) and self.dataset.name(position) == batch.names[len(rows)]:
                rows.append(position)
            else:
                faults.append(Fault(str(position), batch.faults[len(faults)].reason))
        return rows, faults

    def _named(self, fault: Fault) -> Fault:
        return Fault(self.dataset.name(int(fault.name)), fault.reason)


def half(patches: Float[Tensor, "samples patches dim"]) -> Float[Tensor, "samples patches dim"]:
    """In float16; `WeightsError` where a number is beyond it."""
    found = patches.half()
    if not bool(found.isfinite().all()):
        raise WeightsError(
            "a patch token of this model is beyond ±65,504, or not finite, which float16 cannot hold; choose"
            " tasks that look at CLS"
        )
    return found


def _mapped(path: Path, dtype: str, shape: list[int]) -> Tensor:
    """The rows of a column, read as they are needed; changes stay in memory."""
    return torch.from_numpy(np.memmap(path, dtype=np.dtype(dtype), mode="c").reshape(-1, *shape))
