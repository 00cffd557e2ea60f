"""A picture of what the corruptions do: one row for each kind, one column for each severity."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw

from nexus.drawing.images import square
from nexus.drawing.text import font_of
from nexus.drawing.tiles import GAP, HEADING, INK, PAPER
from nexus.evals.corruptions.corrupted import resized
from nexus.evals.corruptions.kinds import corrupt

_TILE, _NAMES = 150, 170


def corruption_sheet(
    image: Image.Image,
    kinds: Sequence[str],
    severities: Sequence[int],
    side: int,
    *,
    name: str = "",
    seed: int = 0,
    shares: Mapping[tuple[str, int], float] | None = None,
) -> Image.Image:
    """The image as it is, then with each severity; `shares` (accuracies in 0..1) are written below."""
    clean = resized(image, side)
    row, column = _TILE + (HEADING if shares else 0) + GAP, _TILE + GAP
    size = (_NAMES + column * (len(severities) + 1), HEADING + row * len(kinds))
    sheet = Image.new("RGB", size, PAPER)
    draw, font = ImageDraw.Draw(sheet), font_of(14)
    for place, title in enumerate(("clean", *(f"severity {s}" for s in severities))):
        draw.text((_NAMES + place * column, 3), title, INK, font)
    for number, kind in enumerate(kinds):
        top = HEADING + number * row
        draw.text((GAP, top + _TILE // 2), kind.replace("_", " "), INK, font, anchor="lm")
        sheet.paste(square(clean, _TILE), (_NAMES, top))
        for place, severity in enumerate(severities, 1):
            pixels = corrupt(np.asarray(clean), kind, severity, seed=seed, name=name)
            left = _NAMES + place * column
            sheet.paste(square(Image.fromarray(pixels), _TILE), (left, top))
            if shares:
                draw.text((left, top + _TILE + 4), f"{100 * shares[kind, severity]:.1f} %", INK, font)
    return sheet
