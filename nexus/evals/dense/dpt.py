"""The DPT head for depth (Ranftl et al. 2021), with the sizes that DINOv2 uses.

::

    for each of four layers, shallow to deep:
        readout   = gelu(linear([patch ; CLS]))                     2 D -> D
        reassemble: conv1x1 to D/8, D/4, D/2, D channels; scale by 4, 2, 1, 1/2
        conv3x3 to 256 channels
    fuse from the deepest: x = up2(residual(x + residual(layer))) , conv1x1
    conv3x3, then conv3x3, up2, conv3x3 to 32, relu, conv1x1; depth = relu + min_depth
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from nexus.evals.dense.maps import LayerMap, Maps

LAYERS = 4


class Reassemble(nn.Module):
    """One layer's tokens as a map of some scale; CLS is read into every patch."""

    def __init__(self, dim: int, width: int, channels: int, resize: nn.Module) -> None:
        super().__init__()
        self.readout = nn.Linear(2 * dim, dim)
        self.project = nn.Conv2d(dim, width, kernel_size=1)
        self.resize = resize
        self.widen = nn.Conv2d(width, channels, kernel_size=3, padding=1, bias=False)

    def forward(self, layer: LayerMap) -> Float[Tensor, "batch chans height width"]:
        """The map with the head's number of channels."""
        grid = layer.patches.shape[2:]
        patches = layer.patches.flatten(2).transpose(1, 2)
        tokens = torch.cat([patches, layer.cls[:, None].expand_as(patches)], dim=2)
        read = F.gelu(self.readout(tokens)).transpose(1, 2).unflatten(2, grid)
        return self.widen(self.resize(self.project(read)))


class Residual(nn.Module):
    """Twice relu and a convolution, added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False)
        self.second = nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False)

    def forward(
        self, x: Float[Tensor, "batch chans height width"]
    ) -> Float[Tensor, "batch chans height width"]:
        """The same size."""
        return x + self.second(F.relu(self.first(F.relu(x))))


class Fusion(nn.Module):
    """Adds a finer map to a coarser one, and doubles the resolution."""

    def __init__(self, channels: int, joins: bool) -> None:
        super().__init__()
        self.inner = Residual(channels) if joins else None
        self.outer = Residual(channels)
        self.project = nn.Conv2d(channels, channels, kernel_size=1)

    def forward(self, x: Tensor, finer: Tensor | None = None) -> Tensor:
        """`x` (batch, channels, h, w) to (batch, channels, 2h, 2w)."""
        if finer is not None:
            assert self.inner is not None
            fitting = F.interpolate(finer, size=x.shape[2:], mode="bilinear", align_corners=False)
            x = x + self.inner(fitting)
        x = F.interpolate(self.outer(x), scale_factor=2, mode="bilinear", align_corners=True)
        return self.project(x)


class DPTHead(nn.Module):
    """Depth in metres from four layers; fewer are repeated. `channels` is 256 in the official head."""

    def __init__(self, dim: int, channels: int = 256, min_depth: float = 1e-3, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            widths = [max(1, dim // share) for share in (8, 4, 2, 1)]
            resizes: Sequence[nn.Module] = (
                nn.ConvTranspose2d(widths[0], widths[0], kernel_size=4, stride=4),
                nn.ConvTranspose2d(widths[1], widths[1], kernel_size=2, stride=2),
                nn.Identity(),
                nn.Conv2d(widths[3], widths[3], kernel_size=3, stride=2, padding=1),
            )
            self.reassemble = nn.ModuleList(
                Reassemble(dim, width, channels, resize)
                for width, resize in zip(widths, resizes, strict=True)
            )
            self.fusions = nn.ModuleList(Fusion(channels, joins=i > 0) for i in range(LAYERS))
            self.project = nn.Conv2d(channels, channels, kernel_size=3, padding=1)
            self.narrow = nn.Conv2d(channels, channels // 2, kernel_size=3, padding=1)
            self.refine = nn.Conv2d(channels // 2, 32, kernel_size=3, padding=1)
            self.measure = nn.Conv2d(32, 1, kernel_size=1)
        self.min_depth = min_depth

    def forward(self, maps: Maps) -> Float[Tensor, "batch 1 height width"]:
        """Metres, at 16 times the resolution of the deepest map, about 8 to 16 times the patches."""
        repeated = [maps[round(i * (len(maps) - 1) / (LAYERS - 1))] for i in range(LAYERS)]
        layers = [one(layer) for one, layer in zip(self.reassemble, repeated, strict=True)]
        x = self.fusions[0](layers[-1])
        for fusion, layer in zip(list(self.fusions)[1:], reversed(layers[:-1]), strict=True):
            x = fusion(x, layer)
        x = F.relu(self.project(x))
        x = F.interpolate(self.narrow(x), scale_factor=2, mode="bilinear", align_corners=True)
        return F.relu(self.measure(F.relu(self.refine(x)))) + self.min_depth
