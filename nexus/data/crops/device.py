"""Colour, blur and solarization of a whole batch, on whatever device holds it.

The operations of `nexus.data.crops.colour`, on rows that a `ColourPlan` lists. Bytes are rounded between the
operations as Pillow rounds them; float32 crops in 0..1 are not.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn.functional import pad

from nexus.data.crops.parameters import BLUE, GREEN, RED
from nexus.data.crops.plan import JITTER_STEPS, ColourPlan, Group

Rows = Float[Tensor, "rows chans height width"]


def recolour_batch(
    crops: Shaped[Tensor, "crops chans height width"], plan: ColourPlan
) -> Shaped[Tensor, "crops chans height width"]:
    """The crops with everything done that the plan lists; same type. The host waits for nothing."""
    is_bytes = crops.dtype == torch.uint8
    top = 255.0 if is_bytes else 1.0
    x = crops.float() if is_bytes else crops.clone()
    groups = iter(plan.groups())
    for _ in range(JITTER_STEPS):
        _treat(x, next(groups), lambda part, blend: _blended(part, blend, top, is_bytes))
        _treat(x, next(groups), lambda part, turns: _hue_turned(part, turns, is_bytes))
    _treat(x, next(groups), lambda part, _: _grey(part, is_bytes).expand_as(part))
    _treat(x, next(groups), lambda part, kernels: _blurred(part, kernels, is_bytes))
    threshold = plan.threshold * (top / 255.0)
    _treat(x, next(groups), lambda part, _: torch.where(part >= threshold, top - part, part))
    return x.to(torch.uint8) if is_bytes else x


def _treat(x: Tensor, group: Group, change: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Replace some rows of `x`."""
    rows, values = group
    if len(rows):
        x.index_copy_(0, rows, change(x.index_select(0, rows), values))


def _grey(x: Rows, is_bytes: bool) -> Float[Tensor, "rows 1 height width"]:
    """The brightness of RGB."""
    grey = RED * x[:, 0:1] + GREEN * x[:, 1:2] + BLUE * x[:, 2:3]
    return torch.floor(grey + 0.5) if is_bytes else grey


def _blended(x: Rows, blend: Float[Tensor, "rows 3"], top: float, is_bytes: bool) -> Rows:
    """`factor * x + (1 - factor) * other`, where `other` is black, the mean or the grey of each pixel."""
    factor, to_mean, to_grey = blend.view(-1, 3, 1, 1, 1).unbind(1)
    if x.shape[1] == 3:
        grey = _grey(x, is_bytes)
        mean = grey.mean(dim=(1, 2, 3), keepdim=True)
        other = to_mean * (torch.floor(mean + 0.5) if is_bytes else mean) + to_grey * grey
    else:
        other = to_mean * x.mean(dim=(2, 3), keepdim=True)
    mixed = (other + factor * (x - other)).clamp(0.0, top)
    return mixed.floor() if is_bytes else mixed


def _hue_turned(x: Rows, turns: Float[Tensor, "rows 1"], is_bytes: bool) -> Rows:
    """RGB with another hue, and the largest and smallest of the three values as before."""
    sixths = 6.0 * (torch.trunc(turns * 255.0) / 255.0 if is_bytes else turns).view(-1, 1, 1)
    red, green, blue = x.unbind(1)
    high, low = x.amax(dim=1), x.amin(dim=1)
    spread = high - low
    safe = torch.where(spread > 0, spread, torch.ones_like(spread))
    hue = torch.where(high == green, 2.0 + (blue - red) / safe, 4.0 + (red - green) / safe)
    hue = torch.where(high == red, (green - blue) / safe, hue) + sixths
    planes = []
    for offset in (5.0, 3.0, 1.0):
        k = torch.remainder(hue + offset, 6.0)
        planes.append(high - spread * torch.minimum(k, 4.0 - k).clamp(0.0, 1.0))
    turned = torch.stack(planes, dim=1)
    return torch.floor(turned + 0.5) if is_bytes else turned


def _blurred(x: Rows, kernels: Float[Tensor, "rows taps"], is_bytes: bool) -> Rows:
    """Gaussian blur with a kernel for each row, edges mirrored."""
    radius = kernels.shape[1] // 2
    taps = kernels.view(len(x), -1, 1, 1, 1).unbind(1)
    height, width = x.shape[2:]
    padded = pad(x, (radius, radius, 0, 0), mode="reflect")
    x = sum((tap * padded[..., k : k + width] for k, tap in enumerate(taps)), start=torch.zeros_like(x))
    padded = pad(x, (0, 0, radius, radius), mode="reflect")
    x = sum((tap * padded[..., k : k + height, :] for k, tap in enumerate(taps)), start=torch.zeros_like(x))
    return torch.round(x) if is_bytes else x
