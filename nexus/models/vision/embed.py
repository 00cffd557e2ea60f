"""From pixels to tokens: the patch embedding, and the position table at any grid."""

import warnings
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from nexus.errors import ConfigError
from nexus.shapes import Images


class PatchEmbed(nn.Module):
    """Non-overlapping patches, each turned into a token by one linear map (a strided convolution).

    Patches are counted row by row. Images need not fill the grid: what remains at the right and at the
    bottom is dropped, as a convolution does, with one warning for each image size.
    """

    def __init__(self, patch_size: int, in_chans: int, embed_dim: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.in_chans = in_chans
        self.proj = nn.Conv2d(in_chans, embed_dim, kernel_size=patch_size, stride=patch_size)
        self._warned: set[tuple[int, int]] = set()

    def forward(self, x: Images) -> Float[Tensor, "batch patches dim"]:
        """Tokens of all patches, without position."""
        return self.proj(x).flatten(2).transpose(1, 2)

    def grid(self, x: Images) -> tuple[int, int]:
        """Patches down and across of images like `x`; a `ConfigError` where there would be none."""
        _, chans, height, width = x.shape
        if chans != self.in_chans:
            raise ConfigError(
                f"the images have {chans} channels, but the backbone takes {self.in_chans}; convert the"
                f" images, or build the backbone with in_chans={chans}"
            )
        if min(height, width) < self.patch_size:
            raise ConfigError(
                f"an image of {height} × {width} px (height × width) is smaller than one patch of"
                f" {self.patch_size} px; enlarge it to at least {self.patch_size} px a side"
            )
        if (height % self.patch_size or width % self.patch_size) and ((height, width) not in self._warned):
            self._warned.add((height, width))
            warnings.warn(self._remainder(height, width), stacklevel=2)
        return height // self.patch_size, width // self.patch_size

    def _remainder(self, height: int, width: int) -> str:
        """What is wrong with an image size that the patch size does not divide, why, and the cure."""
        patch = self.patch_size
        rows, cols = -(-height // patch) * patch, -(-width // patch) * patch
        return (
            f"images of {height} × {width} px (height × width) are not whole patches of {patch} px: the"
            f" last {height % patch} px at the bottom and {width % patch} px at the right are dropped;"
            f" use {rows} × {cols} px"
        )


def positions(
    table: Float[Tensor, "1 places dim"],
    rows: int,
    cols: int,
    *,
    offset: float = 0.1,
    antialias: bool = False,
) -> Float[Tensor, "1 tokens dim"]:
    """The position table (1, 1 + M², dim) of CLS and an M × M grid, resized to `rows` × `cols` patches.

    At rows = cols = M the table itself. Otherwise the grid is resampled bicubically in float32 and cast
    back; the CLS slot passes through. Two modes exist, and a model must keep the one it was trained with:
    the other one changes its features without a word.

    | `offset` | `antialias` | trained so                | source coordinate of output row `r`           |
    |----------|-------------|---------------------------|-----------------------------------------------|
    | 0.1      | False       | models without registers  | `(r + ½) · M / (rows + offset) - ½`           |
    | 0.0      | True        | models with registers     | `(r + ½) · M / rows - ½`                      |

    Source: official code (`interpolate_offset`, `interpolate_antialias`); the offset came into DINO as a
    guard against a rounding error and stayed in the weights.
    """
    side = int((table.shape[1] - 1) ** 0.5)
    if (rows, cols) == (side, side):
        return table
    grid = table[:, 1:].float().unflatten(1, (side, side)).permute(0, 3, 1, 2)
    if offset:
        scale = (float(rows + offset) / side, float(cols + offset) / side)
        grid = F.interpolate(grid, scale_factor=scale, mode="bicubic", antialias=antialias)
    else:
        grid = F.interpolate(grid, size=(rows, cols), mode="bicubic", antialias=antialias)
    assert grid.shape[-2:] == (rows, cols), "the offset is below one patch"
    patches = grid.flatten(2).transpose(1, 2).to(table.dtype)
    return torch.cat((table[:, :1], patches), dim=1)


class PositionCache:
    """The resized position tables of one backbone: `positions` once per grid and dtype, on a CPU.

    It serves calls without gradients. What was kept is given up as soon as the table differs in a single
    bit, whoever wrote to it and however: an optimizer, load_state_dict, `.to()`, `parameter.data`. That
    comparison takes a fraction of the resampling on a CPU; a GPU would have to wait for its answer and
    resamples in less, so there nothing is kept. The oldest go when all take more than `MOST_BYTES`;
    copies, pickles and state dicts hold none of it.
    """

    MOST_BYTES = 1 << 28

    def __init__(self) -> None:
        self._kept: tuple[Tensor, dict[tuple, Tensor]] | None = None

    def get(
        self,
        table: Float[Tensor, "1 places dim"],
        rows: int,
        cols: int,
        dtype: torch.dtype,
        **mode: Any,
    ) -> Float[Tensor, "1 tokens dim"]:
        """`positions(table, rows, cols, **mode)` in `dtype`, perhaps from an earlier call."""
        if (rows * cols == table.shape[1] - 1 and rows == cols) or not self._may_serve(table):
            return positions(table, rows, cols, **mode).to(dtype)
        entries = self._entries(table)
        key = (rows, cols, dtype, *mode.items())
        if key in entries:
            return entries[key]
        made = positions(table, rows, cols, **mode).to(dtype)
        entries[key] = made
        while sum(one.nbytes for one in entries.values()) > self.MOST_BYTES:
            entries.pop(next(iter(entries)))
        return made

    def _entries(self, table: Tensor) -> dict[tuple, Tensor]:
        """What was made of such a table; an empty dictionary where it changed."""
        kept = self._kept
        if kept is None or kept[0].dtype != table.dtype or not torch.equal(kept[0], table):
            kept = self._kept = (table.detach().clone(), {})
        return kept[1]

    @staticmethod
    def _may_serve(table: Tensor) -> bool:
        """Not while gradients, compilers or tracers look; plain tensors of a CPU only."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.jit.is_tracing():
            return False
        return type(table) in (Tensor, nn.Parameter) and table.device.type == "cpu"

    def __deepcopy__(self, memo: dict) -> "PositionCache":
        return PositionCache()

    def __reduce__(self) -> tuple:
        return PositionCache, ()
