"""The two matrices against PyTorch's own resize, in every mode, at many grids."""

import pytest
import torch
from torch.nn import functional as F

from nexus.exporting.resampling import PositionTable
from nexus.models.vision.embed import positions

MODES = [(0.1, False), (0.0, True), (0.0, False), (0.1, True)]
GRIDS = [
    *((rows, cols) for rows in (1, 2, 5, 7, 8) for cols in (1, 3, 7, 16)),
    *((16, 16), (23, 17), (37, 37), (74, 30), (6, 111), (200, 2)),
]


def maps(table: torch.Tensor, rows: int, cols: int, offset: float, antialias: bool) -> torch.Tensor:
    """The backbone's positions, as a map."""
    patches = positions(table, rows, cols, offset=offset, antialias=antialias)[:, 1:]
    return patches.transpose(1, 2).unflatten(2, (rows, cols))


@pytest.mark.parametrize(("offset", "antialias"), MODES)
@pytest.mark.parametrize("side", [3, 7, 16, 37])
def test_equal_to_torch(side: int, offset: float, antialias: bool) -> None:
    table = 0.1 * torch.randn(1, 1 + side * side, 5)
    ours = PositionTable(table, offset=offset, antialias=antialias)
    for rows, cols in [*GRIDS, (side, side + 1), (side - 1, side), (2 * side, side)]:
        found = ours(torch.empty(1, 1, rows, cols))
        wanted = maps(table, rows, cols, offset, antialias)
        torch.testing.assert_close(found, wanted, atol=4e-6, rtol=0, msg=f"{rows} × {cols}")


@pytest.mark.parametrize(("offset", "antialias"), MODES)
@pytest.mark.parametrize("side", [1, 2, 7, 16, 37])
def test_the_table_itself_at_its_own_grid(side: int, offset: float, antialias: bool) -> None:
    table = torch.randn(1, 1 + side * side, 5)
    found = PositionTable(table, offset=offset, antialias=antialias)(torch.empty(1, 1, side, side))
    assert torch.equal(found, table[:, 1:].transpose(1, 2).unflatten(2, (side, side)))


@pytest.mark.parametrize(("offset", "antialias"), MODES)
def test_no_further_from_the_truth_than_torch(offset: float, antialias: bool) -> None:
    """Against the same resize in float64: what is left between the two is rounding."""
    side, rows, cols = 16, 37, 23
    grid = torch.randn(1, 5, side, side)
    size = (
        {"scale_factor": ((rows + offset) / side, (cols + offset) / side)}
        if offset
        else {"size": (rows, cols)}
    )
    truth = F.interpolate(grid.double(), mode="bicubic", antialias=antialias, **size)
    torchs = F.interpolate(grid, mode="bicubic", antialias=antialias, **size)
    table = torch.cat((torch.zeros(1, 1, 5), grid.flatten(2).transpose(1, 2)), dim=1)
    ours = PositionTable(table, offset=offset, antialias=antialias)(torch.empty(1, 1, rows, cols))
    assert (ours - truth).abs().max() < 3 * (torchs - truth).abs().max() + 1e-6


def test_the_modes_differ_enough_to_be_told_apart() -> None:
    table = 0.1 * torch.randn(1, 1 + 49, 5)
    found = [PositionTable(table, offset=o, antialias=a)(torch.empty(1, 1, 5, 9)) for o, a in MODES]
    for first in range(len(MODES)):
        for second in range(first):
            assert (found[first] - found[second]).abs().max() > 1e-3
