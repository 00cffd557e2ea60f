"""Nearest neighbours as pictures: an image, and the images that a backbone holds to be most like it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from PIL import Image, ImageDraw
from torch import Tensor

from nexus.drawing.tiles import GAP, HEADING, INK, PAPER, TILE, framed
from nexus.errors import ConfigError


@dataclass(frozen=True)
class Tile:
    """One picture, its class name ("" where there is none) and a neighbour's cosine similarity."""

    image: Image.Image
    label: str = ""
    similarity: float | None = None


@dataclass(frozen=True)
class Neighbors:
    """An image and its nearest neighbours, nearest first, by two backbones."""

    query: Tile
    before: Sequence[Tile]
    after: Sequence[Tile]


def nearest(
    queries: Float[Tensor, "queries dim"],
    bank: Float[Tensor, "samples dim"],
    count: int,
    own: Int[Tensor, " queries"] | None = None,
) -> tuple[Int[Tensor, "queries neighbors"], Float[Tensor, "queries neighbors"]]:
    """Rows of `bank` with the largest cosine similarity, nearest first, and the similarities.

    `own[q]` is the row of `bank` that is query `q` itself and is left out (-1: none).
    """
    available = len(bank) - (own is not None)
    if not 1 <= count <= available:
        raise ConfigError(f"{count} neighbours asked of {available} images; ask for 1 to {available}.")
    unit = torch.nn.functional.normalize
    similarity = unit(queries.float(), dim=1) @ unit(bank.float(), dim=1).T
    if own is not None:
        here = (own >= 0).nonzero().flatten()
        similarity[here, own[here]] = -torch.inf
    values, index = similarity.topk(count, dim=1)
    return index, values


def is_right(query: Tile, neighbor: Tile) -> bool | None:
    """Whether both show the same class; None where one has no label."""
    if not query.label or not neighbor.label:
        return None
    return query.label == neighbor.label


def neighbor_grid(rows: Sequence[Neighbors], names: tuple[str, str] = ("before", "after")) -> Image.Image:
    """One picture: a row per query, its neighbours by the first backbone, then by the second.

    A neighbour of the query's class is framed green, one of another class red, grey without labels.
    """
    step = TILE + GAP
    first, second = (
        max((len(tiles) for tiles in side), default=0)
        for side in ([row.before for row in rows], [row.after for row in rows])
    )
    starts = (GAP, 3 * GAP + step, 5 * GAP + (1 + first) * step)
    width = starts[2] + second * step
    sheet = Image.new("RGB", (width, HEADING + GAP + max(1, len(rows)) * step), PAPER)
    pen = ImageDraw.Draw(sheet)
    for start, text in zip(starts, ("image", *names), strict=True):
        pen.text((start, GAP), text, fill=INK)
    for line, row in enumerate(rows):
        top = HEADING + GAP + line * step
        sheet.paste(framed(row.query.image), (starts[0], top))
        for start, tiles in zip(starts[1:], (row.before, row.after), strict=True):
            for place, tile in enumerate(tiles):
                sheet.paste(framed(tile.image, is_right(row.query, tile)), (start + place * step, top))
    return sheet
