"""How far predicted depth is from measured depth, image by image, and which part of an image counts.

Over the measured pixels of an image, with p predicted and t true, in metres:

| metric   | formula                                                | better |
|----------|--------------------------------------------------------|--------|
| RMSE     | sqrt(mean (p - t)^2)                                   | low    |
| AbsRel   | mean \\|p - t\\| / t                                   | low    |
| log10    | mean \\|log10 p - log10 t\\|                           | low    |
| SILog    | 100 sqrt(mean g^2 - (mean g)^2), g = log p - log t     | low    |
| delta1-3 | share of pixels with max(p / t, t / p) < 1.25, ^2, ^3  | high   |

The figure of a data set is the mean over its images, as in the official tests.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

EvalCrop = Literal["none", "nyu", "garg", "eigen"]
METRICS = ("RMSE", "AbsRel", "log10", "SILog", "delta1", "delta2", "delta3")
_PARTS: dict[str, tuple[float, float, float, float]] = {
    "none": (0.0, 1.0, 0.0, 1.0),
    "nyu": (45 / 480, 471 / 480, 41 / 640, 601 / 640),
    "garg": (0.40810811, 0.99189189, 0.03594771, 0.96405229),
    "eigen": (0.3324324, 0.91351351, 0.0359477, 0.96405229),
}
"""Top, bottom, left and right as shares of the image: Eigen's on NYUv2, Garg's and Eigen's on KITTI."""


def counted_part(height: int, width: int, crop: EvalCrop) -> Bool[Tensor, "height width"]:
    """True in the part of an image that is scored."""
    top, bottom, left, right = _PARTS[crop]
    part = torch.zeros(height, width, dtype=torch.bool)
    part[
        int(top * height + 1e-6) : int(bottom * height + 1e-6),
        int(left * width + 1e-6) : int(right * width + 1e-6),
    ] = True
    return part


def counted_pixels(
    true: Float[Tensor, "height width"], crop: EvalCrop, min_depth: float, max_depth: float
) -> Bool[Tensor, "height width"]:
    """Pixels that are measured, between the limits, and in the scored part."""
    measured = (true > min_depth) & (true < max_depth)
    return measured & counted_part(true.shape[0], true.shape[1], crop)


def depth_metrics(predicted: Float[Tensor, " pixels"], true: Float[Tensor, " pixels"]) -> dict[str, float]:
    """Every metric over some pixels, which are all positive."""
    p, t = predicted.double(), true.double()
    log = p.log() - t.log()
    ratio = torch.maximum(p / t, t / p)
    return {
        "RMSE": float((p - t).square().mean().sqrt()),
        "AbsRel": float(((p - t).abs() / t).mean()),
        "log10": float((p.log10() - t.log10()).abs().mean()),
        "SILog": 100 * float((log.square().mean() - log.mean().square()).clamp(min=0).sqrt()),
        **{f"delta{n}": float((ratio < 1.25**n).double().mean()) for n in (1, 2, 3)},
    }
