"""From arrays of any number type to normalised images. Nothing is guessed.

| numbers                  | become 0..1 by                                   |
|--------------------------|--------------------------------------------------|
| uint8                    | / 255                                            |
| uint16                   | / 65535                                          |
| uint32                   | / 4294967295                                     |
| float16, bf16, 32, 64    | nothing: they must be finite and within 0..1     |
| signed, bool, complex    | an error: their range is not known               |
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from nexus.data.transforms import as_rgb, to_tensor
from nexus.errors import ConfigError

FULL_SCALE = {torch.uint8: 255.0, torch.uint16: 65535.0, torch.uint32: 4294967295.0}
"""What white is, by number type."""

ROUNDING = 1e-4
"""How far beyond 0..1 a float may lie: what resizing and rounding leave."""


def unit_range(images: Any, chans: int = 3) -> Float[Tensor, "batch chans height width"]:
    """`images` as float32 in 0..1, (batch, chans, height, width), by the table at the head of this file.

    `images` is a tensor or array of shape (batch, chans, height, width) or (chans, height, width), for one
    channel also (height, width), or a PIL image, or a list of PIL images of one size (read as RGB, for one
    channel as grey). Raises `ConfigError` for another shape, number of channels, number type or range.
    """
    tensor = _tensor(images, chans)
    if tensor.ndim == 2 and chans == 1:
        tensor = tensor[None]
    if tensor.ndim == 3:
        tensor = tensor[None]
    if tensor.ndim != 4 or 0 in tensor.shape:
        raise ConfigError(
            f"images of shape {tuple(tensor.shape)} are not understood; pass (batch, {chans}, height, width)"
        )
    if tensor.shape[1] != chans:
        raise ConfigError(_channels(tuple(tensor.shape), chans))
    return _scaled(tensor)


def normalized(
    images: Float[Tensor, "batch chans height width"], mean: Sequence[float], std: Sequence[float]
) -> Float[Tensor, "batch chans height width"]:
    """`(images - mean) / std`, channel by channel."""
    chans = images.shape[1]
    if len(mean) != chans or len(std) != chans:
        raise ConfigError(
            f"mean and std have {len(mean)} and {len(std)} values for {chans} channels; pass mean= and std="
            " with one value for each channel"
        )
    offset, scale = (images.new_tensor(list(part)).view(1, -1, 1, 1) for part in (mean, std))
    return (images - offset) / scale


def _tensor(images: Any, chans: int) -> Tensor:
    if isinstance(images, Tensor):
        return images
    if isinstance(images, np.ndarray):
        native = images.astype(images.dtype.newbyteorder("="), copy=False)
        return torch.from_numpy(np.require(native, requirements=["C", "W"]))
    if isinstance(images, Image.Image):
        images = [images]
    if isinstance(images, Sequence) and images and all(isinstance(one, Image.Image) for one in images):
        sizes = sorted({one.size for one in images})
        if len(sizes) > 1:
            raise ConfigError(
                f"the images have different sizes ({sizes[0]}, {sizes[1]}, ...); pass one size at a time"
            )
        if chans == 1:
            return torch.stack([to_tensor(as_rgb(one.convert("L")))[:1] for one in images])
        return torch.stack([to_tensor(as_rgb(one)) for one in images])
    raise ConfigError(
        f"images of type {type(images).__name__} are not understood; pass a tensor, an array or PIL images"
    )


def _channels(shape: tuple[int, ...], chans: int) -> str:
    """What is wrong with the second axis, and the cure."""
    if shape[3] == chans:
        return f"images of shape {shape} have their {chans} channels last; pass images.transpose(0, 3, 1, 2)"
    return (
        f"images of shape {shape} have {shape[1]} channels, but the backbone takes {chans}; pass {chans}"
        f" channels, or load the model with nexus.load(..., in_chans={shape[1]})"
    )


def _scaled(tensor: Tensor) -> Tensor:
    if tensor.dtype in FULL_SCALE:
        white = FULL_SCALE[tensor.dtype]
        wide = torch.float64 if tensor.dtype is torch.uint32 else torch.float32
        return (tensor.to(wide) / white).float()
    if not tensor.is_floating_point():
        kind = str(tensor.dtype).removeprefix("torch.")
        raise ConfigError(
            f"images of type {kind} have no stated range; pass uint8, uint16, uint32, or floats within 0..1"
        )
    low, high = (float(bound) for bound in tensor.detach().aminmax())
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):  # also false for NaN
        raise ConfigError(
            f"float images must lie within 0..1, not {low:g}..{high:g}; divide by the value of white (such as"
            " 255 or 65535), and do not normalise: that is done here"
        )
    return tensor.float()
