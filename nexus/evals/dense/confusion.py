"""mIoU from what is counted per image, so that any multiset of test images can be scored exactly.

IoU of a class is its hits / (its pixels in the truth + its pixels in the prediction - its hits), summed over
all
images first. mIoU is the mean over the classes that occur in either. Void pixels count nowhere.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nexus.data.dense import VOID


def confusion(
    truth: Int[Tensor, "height width"], predicted: Int[Tensor, "height width"], classes: int
) -> Int[Tensor, "classes classes"]:
    """Pixels by true class (down) and predicted class (across), without void."""
    valid = truth != VOID
    pairs = truth[valid].long() * classes + predicted[valid].long()
    return torch.bincount(pairs, minlength=classes * classes).view(classes, classes)


def iou(
    hits: Float[Tensor, " classes"], true: Float[Tensor, " classes"], predicted: Float[Tensor, " classes"]
) -> Float[Tensor, " classes"]:
    """IoU of each class; NaN where a class occurs nowhere."""
    return hits / (true + predicted - hits)


@dataclass(frozen=True)
class Counts:
    """Per image and class: pixels hit, pixels of the truth, pixels predicted; and one matrix over all."""

    hits: Int[Tensor, "samples classes"]
    true: Int[Tensor, "samples classes"]
    predicted: Int[Tensor, "samples classes"]
    matrix: Int[Tensor, "classes classes"]

    @classmethod
    def of(cls, matrices: list[Int[Tensor, "classes classes"]]) -> "Counts":
        """From one confusion matrix an image."""
        stacked = [torch.stack([part(m) for m in matrices]) for part in (torch.diag, _down, _across)]
        total = torch.zeros_like(matrices[0])
        for matrix in matrices:
            total += matrix
        return cls(stacked[0], stacked[1], stacked[2], total)

    def miou(self, picked: Int[Tensor, " picked"] | None = None) -> float:
        """mIoU over a multiset of images, all by default; 0 where no pixel has a label."""
        sums = self._sums(picked)
        values = iou(*sums)
        known = values[~values.isnan()]
        return float(known.mean()) if len(known) else 0.0

    def ious(self) -> list[float | None]:
        """IoU of each class over all images; None where it occurs nowhere."""
        return [None if value != value else value for value in iou(*self._sums(None)).tolist()]

    def accuracy(self) -> float:
        """Share of the pixels with a label that are right."""
        return float(self.hits.sum()) / max(1, int(self.true.sum()))

    def image_accuracy(self) -> Float[Tensor, " samples"]:
        """The same for each image; NaN where all is void."""
        return self.hits.sum(1).double() / self.true.sum(1).double()

    def _sums(self, picked: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        if picked is None:
            weight = torch.ones(len(self.hits), dtype=torch.float64)
        else:
            weight = torch.bincount(picked.cpu(), minlength=len(self.hits)).double()
        return weight @ self.hits.double(), weight @ self.true.double(), weight @ self.predicted.double()


def _down(matrix: Tensor) -> Tensor:
    return matrix.sum(1)


def _across(matrix: Tensor) -> Tensor:
    return matrix.sum(0)
