"""Images and the objects in them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from nexus.data.datasets import ImageDataset

Rle = dict[str, Any]
"""A mask as pycocotools writes it: `size` (height, width) and compressed `counts`."""


@dataclass(frozen=True)
class Objects:
    """The objects of one image, in its own pixels."""

    boxes: Float[np.ndarray, "objects 4"]
    """Left, top, right, bottom; a side of 0 is allowed here, and left out of training."""
    labels: Int[np.ndarray, " objects"]
    """Number of the class, from 0 without gaps."""
    crowd: Bool[np.ndarray, " objects"]
    """Many at once, or too difficult: neither found nor missed by a detection on it, and not trained on."""
    areas: Float[np.ndarray, " objects"]
    """What decides whether an object is small, medium or large; as annotated, or that of the box."""
    masks: tuple[Rle, ...] | None = None
    """None where the data have boxes only."""

    def __len__(self) -> int:
        return len(self.boxes)

    def trained_on(self) -> Int[np.ndarray, " some"]:
        """Rows that a detector learns from: single objects with an area."""
        sides = self.boxes[:, 2:] - self.boxes[:, :2]
        return np.flatnonzero(~self.crowd & (sides > 0).all(axis=1))


@dataclass(frozen=True)
class Annotated:
    """Images with their objects, row for row."""

    images: ImageDataset
    objects: tuple[Objects, ...]
    classes: tuple[str, ...]

    @property
    def has_masks(self) -> bool:
        """Whether every object has one; boxes are all that can be learned and measured otherwise."""
        return any(len(o) for o in self.objects) and all(o.masks is not None for o in self.objects if len(o))

    def part(self, rows: Sequence[int]) -> "Annotated":
        """Some of the images."""
        return Annotated(self.images.subset(rows), tuple(self.objects[i] for i in rows), self.classes)


def objects_of(
    boxes: Sequence[Sequence[float]],
    labels: Sequence[int],
    crowd: Sequence[bool] | None = None,
    areas: Sequence[float] | None = None,
    masks: Sequence[Rle] | None = None,
) -> Objects:
    """Objects from lists; areas are those of the boxes where none are given."""
    table = np.asarray(boxes, dtype=np.float32).reshape(-1, 4)
    sides = table[:, 2:] - table[:, :2]
    return Objects(
        table,
        np.asarray(labels, dtype=np.int64),
        np.zeros(len(table), dtype=bool) if crowd is None else np.asarray(crowd, dtype=bool),
        sides.prod(axis=1) if areas is None else np.asarray(areas, dtype=np.float32),
        None if masks is None else tuple(masks),
    )
