"""Random views for learning depth: crops of most of the image, mirrored, in other colours. Never scaled.

Scaling an image would change how far things look away.
"""

from functools import partial

import numpy as np
from jaxtyping import Float32

from nexus.data.dense import DenseSample
from nexus.evals.dense.label_views import distort
from nexus.evals.dense.views import Box, Draw, Size, View, cut, random_box, scaled_size

SHARE = 0.85
"""Of each side that a crop has: the official 416 × 544 of 480 × 640."""


def crop_size(frame: Size, patch: int) -> Size:
    """The crop of images of `frame` pixels, in whole patches."""
    rows, cols = (max(1, round(SHARE * side / patch)) * patch for side in frame)
    return rows, cols


def depth_view(sample: DenseSample, generator: np.random.Generator, *, resolution: int, crop: Size) -> View:
    """A random crop of the image with its shorter side at `resolution`; half of the views are mirrored."""
    box = random_box(scaled_size(sample.image, resolution), crop, generator)
    flip = bool(generator.random() < 0.5)
    colour = partial(distort, generator=generator)
    return cut(sample, box, crop, 0.0, flip=flip, colour=colour, truth=pooled(sample.truth, box))


def drawing(resolution: int, crop: Size) -> Draw:
    """`depth_view` with its settings."""
    return partial(depth_view, resolution=resolution, crop=crop)


def pooled(
    truth: Float32[np.ndarray, "height width"], box: Box
) -> Float32[np.ndarray, "box_height box_width"]:
    """The mean of the measured pixels beneath each pixel of the box, 0 where there is none.

    So that a lidar's few points survive when an image is shrunk. A coarser truth is read at the centres.
    """
    if box.scaled[0] > truth.shape[0]:
        return box.truth(truth)
    down, across = np.nonzero(truth)
    rows = ((down + 0.5) * box.scaled[0] / truth.shape[0]).astype(int) - box.top
    cols = ((across + 0.5) * box.scaled[1] / truth.shape[1]).astype(int) - box.left
    inside = (rows >= 0) & (rows < box.height) & (cols >= 0) & (cols < box.width)
    places = rows[inside] * box.width + cols[inside]
    size = box.height * box.width
    totals = np.bincount(places, truth[down[inside], across[inside]], minlength=size)
    counts = np.bincount(places, minlength=size)
    means = totals / np.maximum(counts, 1)
    return means.reshape(box.height, box.width).astype(np.float32)
