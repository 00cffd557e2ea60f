"""The linear depth head: which of 256 depths is this, and their mean.

::

    x      = [patch ; CLS] of each layer, upsampled 4 times (bilinear), concatenated
    weight = relu(conv1x1(x)) + 0.1, divided by their sum               256 bins from min_depth to max_depth
    depth  = sum of weight * bin
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from nexus.evals.dense.maps import Maps

BINS = 256
UPSAMPLE = 4
FLOOR = 0.1


class LinearDepthHead(nn.Module):
    """One linear map per pixel of the upsampled patch maps onto 256 bins."""

    bins: Tensor

    def __init__(self, dim: int, layers: int, min_depth: float, max_depth: float, seed: int = 0) -> None:
        super().__init__()
        self.classify = nn.Conv2d(2 * dim * layers, BINS, kernel_size=1)
        generator = torch.Generator().manual_seed(seed)
        bound = self.classify.in_channels**-0.5
        nn.init.uniform_(self.classify.weight, -bound, bound, generator=generator)
        nn.init.constant_(self.classify.bias, 0.0)  # type: ignore[arg-type]
        self.register_buffer("bins", torch.linspace(min_depth, max_depth, BINS))

    def forward(self, maps: Maps) -> Float[Tensor, "batch 1 rows4 cols4"]:
        """Metres, four times as fine as the patches."""
        joined = torch.cat(
            [torch.cat([m.patches, m.cls[..., None, None].expand_as(m.patches)], dim=1) for m in maps], dim=1
        )
        # A map of each pixel and bilinear weights, which sum to 1, may change places: 256 channels, not 2 D.
        # With channels last a CPU enlarges them several times as fast.
        scores = F.interpolate(
            self.classify(joined.contiguous(memory_format=torch.channels_last)),
            scale_factor=UPSAMPLE,
            mode="bilinear",
            align_corners=False,
        )
        # The sums over bins of weight and of weight * bin; the floor's part of each is known beforehand.
        sums = torch.stack([torch.ones_like(self.bins), self.bins])
        found = F.conv2d(scores.relu(), sums[:, :, None, None], FLOOR * sums.sum(1))
        return found[:, 1:] / found[:, :1]
