"""Large images in windows that overlap: every pixel gets the mean of all windows that cover it.

::

    for each window (crop x crop, every 2/3 of a crop, the last ones moved back to the border):
        sum[window]   += head(backbone(window)), upsampled to pixels
        count[window] += 1
    result = sum / count
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from nexus.evals.dense.maps import Maps

STRIDE = 2 / 3
"""Of the crop: the official 341 of 512."""

Look = Callable[[UInt8[Tensor, "batch 3 height width"]], Maps]


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows begin along one side, so that they cover it; one window where it is no longer than "
    "that."""
    if length <= window:
        return [0]
    return [*range(0, length - window, stride), length - window]


def window_corners(height: int, width: int, window: int) -> list[tuple[int, int]]:
    """Top and left of every window."""
    stride = max(1, round(STRIDE * window))
    return [
        (top, left)
        for top in window_starts(height, window, stride)
        for left in window_starts(width, window, stride)
    ]


@torch.no_grad()
def slide(
    pixels: UInt8[Tensor, "3 height width"],
    heads: Sequence[nn.Module],
    look: Look,
    window: int,
    batch: int,
) -> list[Float[Tensor, "chans height width"]]:
    """The output of each head for one image, as the mean of all windows over each pixel.

    No side may be shorter than the window. `look` gives the maps of a batch of windows.
    """
    height, width = pixels.shape[-2:]
    assert min(height, width) >= window
    corners = window_corners(height, width, window)
    sums: list[Tensor] = []
    count = torch.zeros(height, width)
    for part in _parts(corners, batch):
        maps = look(torch.stack([pixels[:, top : top + window, left : left + window] for top, left in part]))
        for number, head in enumerate(heads):
            outputs = F.interpolate(head(maps), size=(window, window), mode="bilinear", align_corners=False)
            if len(sums) == number:
                sums.append(outputs.new_zeros(outputs.shape[1], height, width))
            for output, (top, left) in zip(outputs, part, strict=True):
                sums[number][:, top : top + window, left : left + window] += output
        for top, left in part:
            count[top : top + window, left : left + window] += 1
    return [total / count.to(total.device) for total in sums]


def _parts(corners: Sequence[tuple[int, int]], size: int) -> Iterator[Sequence[tuple[int, int]]]:
    for start in range(0, len(corners), size):
        yield corners[start : start + size]
