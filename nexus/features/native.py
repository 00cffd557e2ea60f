"""Images with their stored channels, as a backbone of so many is shown them.

The geometry is that of RGB images: the central square, a central part of another aspect, or the whole image.
Resizing is bicubic and antialiased as there, by torch instead of Pillow, on floats that are not rounded.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from nexus.data.batch import unit
from nexus.data.picture import Look, Pixels
from nexus.data.transforms import LONGEST_ASPECT, EvalTransform
from nexus.features.view import View
from nexus.models.vision.fitting import Size, place


def native_look(backbone: Any) -> Look | None:
    """How the backbone wants its images read; None where it takes RGB, or grey made of that."""
    look: Look | None = getattr(backbone, "look", None)
    if look is not None and look.channels == "native":
        return look
    chans = getattr(getattr(backbone, "config", None), "in_chans", 3)
    if chans in (1, 3):
        return None
    mean, _ = getattr(backbone, "normalization", ((0.0,) * chans, None))
    return Look("native", fill=tuple(mean))


@dataclass(frozen=True)
class NativeTransform:
    """Pixels of all channels -> float32 (chans, height, width) in 0..1, of the size that `view` asks for.

    `frame` is that size, or None for each image's own; `patch` the side of a patch.
    """

    look: Look
    frame: Size | None
    view: View
    patch: int

    def __call__(self, pixels: Pixels) -> Float[Tensor, "chans _ _"]:
        """Resize and crop one image; `ConfigError` where `view.fit` forbids its size."""
        x = planes(pixels)
        if self.frame is None:
            return self._whole(x)
        height, width = self.frame
        if isinstance(self.view.size, tuple):
            scale = min(x.shape[-2] / height, x.shape[-1] / width)
            return _resized(_middle(x, round(height * scale), round(width * scale)), height, width)
        resize = self.view.resize or EvalTransform.for_size(height).resize
        return _middle(_short_side(x, resize), height, width)

    def _whole(self, x: Tensor) -> Tensor:
        placement = place(x.shape[-2], x.shape[-1], self.patch, self.view.fit)
        x = _resized(x, *placement.scaled)
        if self.view.fit == "crop":
            (top, left), (height, width) = placement.corner, placement.frame
            x = x[:, -top : height - top, -left : width - left]
        return x.contiguous()


@dataclass(frozen=True)
class NativeShrink(NativeTransform):
    """A small square picture of all channels: each pixel the average of what it stands for."""

    side: int = 32

    @classmethod
    def of(cls, look: Look, side: int, view: View) -> "NativeShrink":
        """For pictures of `side` pixels."""
        return cls(look, (side, side), view, 1, side)

    def __call__(self, pixels: Pixels) -> Float[Tensor, "chans _ _"]:
        """Shrink one image."""
        return adaptive_avg_pool2d(planes(pixels), self.side)


def planes(pixels: Pixels) -> Float[Tensor, "chans height width"]:
    """The pixels as float32 in 0..1, channels first."""
    return unit(torch.from_numpy(np.require(pixels, requirements="W"))).permute(2, 0, 1).contiguous()


def _short_side(x: Shaped[Tensor, "chans height width"], side: int) -> Tensor:
    """Resized so that the shorter side has `side` pixels, after cutting very long images."""
    short = min(x.shape[-2:])
    x = _middle(x, *(min(length, LONGEST_ASPECT * short) for length in x.shape[-2:]))
    height, width = (int(side * length / short) for length in x.shape[-2:])
    return _resized(x, height, width)


def _resized(x: Shaped[Tensor, "chans height width"], height: int, width: int) -> Tensor:
    if x.shape[-2:] == (height, width):
        return x
    size = (height, width)
    return interpolate(x[None], size, mode="bicubic", antialias=True, align_corners=False)[0].clamp(0, 1)


def _middle(x: Shaped[Tensor, "chans height width"], height: int, width: int) -> Tensor:
    """The central part."""
    top, left = round((x.shape[-2] - height) / 2), round((x.shape[-1] - width) / 2)
    return x[:, top : top + height, left : left + width].contiguous()
