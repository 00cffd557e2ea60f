"""Boxes of many small images of one size to crops at once: Pillow's bicubic as two matrix products.

A row of a matrix holds the weights of all pixels of an axis in one output pixel; a flip reverses the rows.
That is far more arithmetic than a resize needs, and for batches of images of 32 pixels far less time.
"""

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

_SHARPNESS = -0.5
"""Keys' bicubic kernel (1981) with the parameter that Pillow uses."""


def cubic(x: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """Keys' kernel, zero beyond 2."""
    x, a = x.abs(), _SHARPNESS
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def axis_weights(
    start: Int[Tensor, " crops"],
    length: Int[Tensor, " crops"],
    flip: Bool[Tensor, " crops"],
    pixels: int,
    side: int,
) -> Float[Tensor, "crops side pixels"]:
    """The weights along one axis of `pixels`, for the stretch from `start` of `length`, at `side` pixels."""
    start, length = (value.float().view(-1, 1, 1) for value in (start, length))
    scale = length / side
    outputs = torch.arange(side, device=start.device, dtype=torch.float32)
    outputs = torch.where(flip.view(-1, 1), side - 1 - outputs, outputs).unsqueeze(2)
    places = torch.arange(pixels, device=start.device, dtype=torch.float32) + 0.5
    centre = start + (outputs + 0.5) * scale
    weights = cubic((places - centre) / scale.clamp(min=1.0))
    weights = weights * ((places > start) & (places < start + length))
    return weights / weights.sum(dim=2, keepdim=True)


def cut_batch(
    images: UInt8[Tensor, "crops height chans width"],
    boxes: Int[Tensor, "crops 4"],
    flips: Bool[Tensor, "crops 3"],
    side: int,
) -> UInt8[Tensor, "crops chans side side"]:
    """One crop of each image: its box (top, left, height, width) at `side`, then the flips.

    `flips` says for each: left-right, upside down, transpose. The images are stored row by row with the
    channels inside, so that neither product needs a rearrangement. Rounds between the two, as Pillow does.
    """
    count, height, chans, width = images.shape
    top, left, tall, wide = boxes.unbind(1)
    flip, vertical_flip, transpose = flips.unbind(1)
    across = axis_weights(left, wide, flip, width, side)
    down = axis_weights(top, tall, vertical_flip, height, side)
    rows = torch.bmm(images.float().reshape(count, height * chans, width), across.transpose(1, 2))
    rows = rows.round_().clamp_(0, 255).view(count, height, chans * side)
    crops = torch.bmm(down, rows).round_().clamp_(0, 255).view(count, side, chans, side)
    upright = crops.permute(0, 2, 1, 3)
    turned = torch.where(transpose.view(-1, 1, 1, 1), upright.transpose(2, 3), upright)
    return turned.to(torch.uint8, memory_format=torch.contiguous_format)
