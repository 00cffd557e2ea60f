"""Vital signs of the images: what augmentation leaves of them, and how often the same one comes."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn import functional as F

EPS = 1e-6


@torch.no_grad()
def detail_kept(
    clean: Shaped[Tensor, "crops chans height width"], coloured: Shaped[Tensor, "crops chans height width"]
) -> float:
    """How much of the fine detail of a crop is left after blur, from 0 to 1; the median over crops.

    ::

        detail(x) = mean difference of neighbouring pixels of the grey picture / its standard deviation
        out       = median of min(1, detail(coloured) / detail(clean))

    Contrast and brightness cancel, so only blur lowers it. Both are 0..1 or bytes, cut from the same boxes.
    """
    ratio = _detail(coloured) / _detail(clean).clamp(min=EPS)
    return float(ratio.clamp(max=1.0).median())


def _detail(x: Tensor) -> Tensor:
    grey = x.float().mean(dim=1)
    steps = grey.diff(dim=1).abs().mean(dim=(1, 2)) + grey.diff(dim=2).abs().mean(dim=(1, 2))
    return steps / grey.flatten(1).std(dim=1).clamp(min=EPS)


@torch.no_grad()
def colour_kept(
    clean: Shaped[Tensor, "crops chans height width"], coloured: Shaped[Tensor, "crops chans height width"]
) -> float:
    """How much the coarse picture of a crop still looks like itself: a median correlation, from -1 to 1.

    Of thumbnails of 8 × 8 with all channels, around their mean: blur hardly matters, hue, saturation,
    contrast and solarisation do.
    """
    a, b = _thumbnails(clean), _thumbnails(coloured)
    return float((a * b).sum(dim=1).median())


def _thumbnails(x: Tensor) -> Tensor:
    small = F.adaptive_avg_pool2d(x.float(), 8).flatten(1)
    return F.normalize(small - small.mean(dim=1, keepdim=True), dim=1)


@torch.no_grad()
def copies(thumbnails: Float[Tensor, "samples values"], images: int, same: float = 0.995) -> float:
    """How many near-copies an image has in the whole data set, on average, from a random sample of it.

    ::

        pairs = pairs of the sample whose thumbnails correlate above `same`
        out   = pairs / (samples · (samples - 1) / 2) · (images - 1)

    Unbiased: of each image's copies the sample holds its share. Coarse where no pair is expected, so 0 does
    not prove that there are none. Thumbnails are compared around their mean; flat ones never match.
    """
    x = thumbnails.float()
    samples = len(x)
    if samples < 2:
        return 0.0
    x = x - x.mean(dim=1, keepdim=True)
    x = torch.where(x.std(dim=1, keepdim=True) > EPS, F.normalize(x, dim=1), 0.0)
    pairs = float((x @ x.T).triu(diagonal=1).gt(same).sum())
    return pairs / (samples * (samples - 1) / 2) * (images - 1)
