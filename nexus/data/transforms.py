"""The transform of an evaluation, and the constants that every pixel meets."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from nexus.errors import ConfigError

Channels = tuple[float, float, float]

IMAGENET_MEAN: Channels = (0.485, 0.456, 0.406)
"""Mean of red, green, blue over ImageNet-1k, in 0..1: what all released DINOv2 weights expect."""

IMAGENET_STD: Channels = (0.229, 0.224, 0.225)
"""Standard deviation of red, green, blue over ImageNet-1k, in 0..1."""

LONGEST_ASPECT = 8
"""Longer images are first cut to this aspect: resizing a 1 × 10,000 strip would need gigabytes."""


@dataclass(frozen=True)
class EvalTransform:
    """PIL image -> uint8 CHW: shorter side to `resize` (bicubic, antialiased), central square.

    The pixels are those of the official evaluation, `Resize(resize, BICUBIC)` and
    `CenterCrop(size)` on PIL images, without the normalisation, which belongs on the device.
    """

    resize: int
    size: int

    def __post_init__(self) -> None:
        if not 0 < self.size <= self.resize:
            raise ConfigError(
                f"resize={self.resize} must be at least size={self.size}, and both positive: the "
                "crop is cut out of the resized image; EvalTransform.for_size(size) takes 256 : 224"
            )

    @classmethod
    def for_size(cls, size: int) -> "EvalTransform":
        """The customary pair: resize to 256/224 of the crop, so 224 -> 256 and 518 -> 592."""
        return cls(resize=round(size * 256 / 224), size=size)

    def __call__(self, image: Image.Image) -> UInt8[Tensor, "3 size size"]:
        """Resize, crop and convert one image of any size."""
        image = _shorten(as_rgb(image))
        width, height = image.size
        short = min(width, height)
        width, height = (int(self.resize * side / short) for side in (width, height))
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.BICUBIC)
        left, top = round((width - self.size) / 2), round((height - self.size) / 2)
        return to_tensor(image.crop((left, top, left + self.size, top + self.size)))


def as_rgb(image: Image.Image) -> Image.Image:
    """The image itself if it is RGB, else converted; grey images get three equal channels."""
    return image if image.mode == "RGB" else image.convert("RGB")


def to_tensor(image: Image.Image) -> UInt8[Tensor, "chans height width"]:
    """The bytes of an RGB image as CHW, in channels-last memory: stacking makes it contiguous."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def denormalize(
    x: Float[Tensor, "*batch 3 height width"],
    mean: Channels = IMAGENET_MEAN,
    std: Channels = IMAGENET_STD,
) -> UInt8[Tensor, "*batch 3 height width"]:
    """Bytes from normalised pixels, rounded and clipped: undoes `nexus.data.batch.normalize`."""
    offset = torch.tensor(mean, device=x.device).view(3, 1, 1)
    scale = torch.tensor(std, device=x.device).view(3, 1, 1)
    return ((x.float() * scale + offset) * 255.0).round().clamp(0, 255).to(torch.uint8)


def _shorten(image: Image.Image) -> Image.Image:
    """The central part of a very long image; other images untouched."""
    width, height = image.size
    limit = LONGEST_ASPECT * min(width, height)
    if max(width, height) <= limit:
        return image
    left, top = max(0, (width - limit) // 2), max(0, (height - limit) // 2)
    return image.crop((left, top, left + min(width, limit), top + min(height, limit)))
