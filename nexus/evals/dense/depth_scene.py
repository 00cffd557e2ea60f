"""Depth without looking: one for all pixels, or the usual depth of each place. And the farthest one."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from nexus.data.dense import DenseDataset
from nexus.data.parallel import all_cores, in_order
from nexus.errors import DataError, ImageError
from nexus.evals.dense.depth_views import pooled
from nexus.evals.dense.views import Box

GRID = 48
MOST_IMAGES = 500
ROUND_LIMITS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 80.0, 100.0, 200.0, 500.0, 1000.0)


@dataclass(frozen=True)
class DepthScene:
    """The median depth of the training images, of all pixels and of each of 48 × 48 places, in metres."""

    median: float
    places: Float[Tensor, "rows cols"]
    farthest: float
    """Farther than 99.9 % of the measured places."""

    def guess(self, height: int, width: int) -> Float[Tensor, "height width"]:
        """The median of each place."""
        size = (height, width)
        return F.interpolate(self.places[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]

    def limit(self) -> float:
        """The round number of metres within which nearly everything lies."""
        return next((limit for limit in ROUND_LIMITS if limit >= self.farthest), self.farthest)


def depth_scene(train: DenseDataset, max_depth: float | None, workers: int = 0) -> DepthScene:
    """Measured on at most 500 drawn training images. `DataError` where nothing was measured."""
    rows = np.random.default_rng(0).permutation(len(train))[:MOST_IMAGES]

    def coarse(i: int) -> np.ndarray | None:
        try:
            return pooled(train.truth(int(rows[i])), Box((GRID, GRID), 0, 0, GRID, GRID))
        except ImageError:
            return None

    found = [one for one in in_order(coarse, range(len(rows)), workers or all_cores()) if one is not None]
    stack = np.stack(found) if found else np.zeros((0, GRID, GRID), dtype=np.float32)
    measured = (stack > 0) & (stack <= (np.inf if max_depth is None else max_depth))
    if not measured.any():
        raise DataError(
            f"{train.description}: no training image has a measured depth, so nothing can be learned; check "
            "the files,"
            " the unit (depth.scale) and the limits (depth.max_depth)"
        )
    median = float(np.median(stack[measured]))
    places = np.ma.median(np.ma.masked_array(stack, ~measured), axis=0).filled(median)
    return DepthScene(
        median,
        torch.from_numpy(np.asarray(places, dtype=np.float32)),
        float(np.quantile(stack[measured], 0.999)),
    )
