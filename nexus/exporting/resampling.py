"""The position table at any grid by two small matrices, which every runtime can compute for any size.

Exporters cannot write PyTorch's antialiased bicubic resize, and runtimes differ about the other one. But both
are linear and separable: out = R · grid · Cᵀ, with R (rows × M) and C (cols × M). Row `i` of such a matrix
holds the weights of the M places of the table in output `i`::

    scale  = M / (outputs + offset)
    centre = (i + ½) · scale - ½                      where output i lies
    plain:       weight(j) = cubic(j - centre; a = -¾), places beyond the edge counted as the edge
    antialiased: weight(j) = cubic((j - centre) / max(scale, 1); a = -½), then divided by the row's sum

`cubic` is the kernel of Keys (1981). At the table's own grid the table itself must come out, also with an
offset; there the offset is left out, and both matrices are exactly the identity.
Source: PyTorch's `interpolate`, mode bicubic; the two modes are those of `nexus.models.vision.embed`.
"""

from fractions import Fraction

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

PLAIN_A, ANTIALIAS_A = -0.75, -0.5
"""The free parameter of the cubic kernel, without and with antialiasing, as in PyTorch."""
REACH = 2
"""Places on either side that the kernel sees."""


class PositionTable(nn.Module):
    """`positions(table, rows, cols)` of the backbone, in operations that exporters keep dynamic."""

    grid: Tensor
    places: Tensor
    fold: Tensor

    def __init__(
        self, table: Float[Tensor, "1 places dim"], *, offset: float = 0.1, antialias: bool = False
    ) -> None:
        super().__init__()
        self.side = round((table.shape[1] - 1) ** 0.5)
        self.offset, self.antialias = Fraction(str(offset)), antialias
        grid = table[0, 1:].detach().float().unflatten(0, (self.side, self.side))
        self.register_buffer("grid", grid)
        # Without antialiasing the kernel also sees REACH places beyond each edge, which fold onto the edge.
        beyond = 0 if antialias else REACH
        places = torch.arange(-beyond, self.side + beyond, device=grid.device)
        self.register_buffer("places", places.float())
        self.register_buffer("fold", F.one_hot(places.clamp(0, self.side - 1), self.side).float())

    def forward(self, features: Float[Tensor, "batch _ rows cols"]) -> Float[Tensor, "1 dim rows cols"]:
        """Positions for a map of patches like `features`, in float32; only its shape matters."""
        down, across = (torch.arange(features.shape[axis], device=self.grid.device) for axis in (2, 3))
        down_scale, across_scale = self._scales(down, across)
        vertical, horizontal = self._weights(down, down_scale), self._weights(across, across_scale)
        resized = (vertical @ self.grid.flatten(1)).reshape(-1, self.side, self.grid.shape[-1])
        return (horizontal @ resized).permute(2, 0, 1).unsqueeze(0).contiguous()

    def _scales(self, down: Tensor, across: Tensor) -> tuple[Tensor, Tensor]:
        """Source places per output place, each a tensor of one element.

        The offset as a fraction keeps numerator and denominator whole, so that the quotient is the float
        nearest to the true one, as PyTorch's is.
        """
        offset, unit = self.offset.as_integer_ratio()
        rows, cols = down[-1:] + 1, across[-1:] + 1
        own_rows, own_cols = rows == self.side, cols == self.side
        if not self.antialias:
            own_rows = own_cols = own_rows & own_cols
        return tuple(
            self.side * unit / (outputs * unit + offset * ~own)
            for outputs, own in ((rows, own_rows), (cols, own_cols))
        )  # type: ignore[return-value]

    def _weights(self, index: Tensor, scale: Tensor) -> Tensor:
        """The matrix (outputs, M) for output places `index`, counted from 0."""
        centre = (index.float() + 0.5) * scale - 0.5
        distance = self.places - centre.unsqueeze(1)
        if not self.antialias:
            return cubic(distance, PLAIN_A) @ self.fold
        weights = cubic(distance / scale.clamp(min=1.0), ANTIALIAS_A)
        return weights / weights.sum(dim=1, keepdim=True)


def cubic(distance: Float[Tensor, "outputs places"], a: float) -> Float[Tensor, "outputs places"]:
    """Keys' kernel: two cubic pieces, 1 at distance 0, 0 at 1 and from 2 on."""
    x = distance.abs()
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return torch.where(x <= 1, near, torch.where(x < REACH, far, torch.zeros_like(x)))
