"""What can be said without looking at an image: the commonest class, random classes, the average scene.

A driving data set has road at the bottom and sky at the top of nearly every image. A model that does not beat
the commonest class of each place has learned nothing about images.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from nexus.data.dense import VOID, DenseDataset
from nexus.data.parallel import all_cores, in_order
from nexus.errors import DataError, ImageError
from nexus.evals.dense.confusion import Counts

GRID = 48
MOST_IMAGES = 2000


@dataclass(frozen=True)
class Scene:
    """How often each class occurs at each place of the training images, on a grid of 48 × 48 places."""

    share: Float[Tensor, "classes rows cols"]

    @property
    def frequencies(self) -> Float[Tensor, " classes"]:
        """Share of each class over all places."""
        return self.share.mean((1, 2))

    def guess(self, height: int, width: int) -> Int[Tensor, "height width"]:
        """The commonest class of each place."""
        best = self.share.argmax(0)[None, None].float()
        return F.interpolate(best, size=(height, width), mode="nearest-exact")[0, 0].long()


def average_scene(train: DenseDataset, classes: int, workers: int = 0) -> Scene:
    """Counted over the training images, 2,000 drawn ones at most. `DataError` where everything is void."""
    rows = np.random.default_rng(0).permutation(len(train))[:MOST_IMAGES]

    def places(i: int) -> np.ndarray | None:
        try:
            truth = train.truth(int(rows[i]))
        except ImageError:
            return None
        down = ((np.arange(GRID) + 0.5) * truth.shape[0] / GRID).astype(int)
        across = ((np.arange(GRID) + 0.5) * truth.shape[1] / GRID).astype(int)
        return truth[down[:, None], across[None]]

    counts = torch.zeros(classes + 1, GRID, GRID)
    for found in in_order(places, range(len(rows)), workers or all_cores()):
        if found is not None:
            labels = torch.from_numpy(found).long()
            counts.scatter_add_(
                0, torch.where(labels == VOID, classes, labels)[None], torch.ones(1, GRID, GRID)
            )
    counts = counts[:classes]
    if not bool(counts.any()):
        raise DataError(
            f"{train.description}: every pixel is void, so nothing can be learned; check which numbers are "
            "ignored"
            " (segmentation.ignore, segmentation.zero)"
        )
    everywhere = counts.sum((1, 2), keepdim=True)
    here = counts.sum(0, keepdim=True)
    # A place that is void in all images says what all places together say.
    share = torch.where(here > 0, counts / here.clamp(min=1), everywhere / everywhere.sum())
    return Scene(share)


def blind_scores(scene: Scene, counts: Counts, placed: Counts) -> dict[str, float]:
    """mIoU on the test images of three ways not to look; `placed` are the counts of `scene.guess`."""
    return {
        "commonest class": _constant(scene, counts),
        "random classes": _random(scene, counts),
        "commonest class of each place": placed.miou(),
    }


def _constant(scene: Scene, counts: Counts) -> float:
    true = counts.true.sum(0).double()
    best = int(scene.frequencies.argmax())
    hits = torch.zeros_like(true)
    hits[best] = true[best]
    predicted = torch.zeros_like(true)
    predicted[best] = true.sum()
    return _mean_iou(hits, true, predicted)


def _random(scene: Scene, counts: Counts) -> float:
    """The expected matrix of labels drawn with the training frequencies."""
    true = counts.true.sum(0).double()
    share = scene.frequencies.double() / scene.frequencies.double().sum()
    return _mean_iou(true * share, true, true.sum() * share)


def _mean_iou(hits: Tensor, true: Tensor, predicted: Tensor) -> float:
    values = hits / (true + predicted - hits)
    known = values[~values.isnan()]
    return float(known.mean()) if len(known) else 0.0
