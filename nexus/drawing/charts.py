"""Charts as pictures, drawn with Pillow: no fonts to find, no figure to close."""

from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw

from nexus.drawing.text import fitted, font_of
from nexus.drawing.tiles import GAP, INK, PAPER, PLAIN

BAR = (127, 176, 209)
DEEP = (44, 110, 155)
ERROR = (197, 68, 52)
LINE = (228, 225, 217)
ROW, WIDTH = 26, 420
LABEL = (200, 420)
"""Least and most width of the names of bars."""


def bar_chart(values: Mapping[str, float], title: str, texts: Mapping[str, str] | None = None) -> Image.Image:
    """Shares in 0..1 as horizontal bars, one under the other, each with its name and its percentage.

    `texts` stand in the place of the percentages.
    """
    font = font_of(14)
    texts = texts or {name: f"{100 * v:.1f} %" if v == v else "none" for name, v in values.items()}
    label = round(min(LABEL[1], max(LABEL[0], 2 * GAP + max(map(font.getlength, values), default=0))))
    number = round(2 * GAP + max(map(font.getlength, texts.values()), default=0))
    sheet = Image.new("RGB", (label + WIDTH + number + GAP, ROW * (len(values) + 1) + 2 * GAP), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((label, GAP), title, fill=INK, font=font)
    for line, (name, value) in enumerate(values.items(), start=1):
        top = GAP + line * ROW
        middle = top + ROW // 2
        pen.text((label - GAP, middle), fitted(name, label - 2 * GAP, font), INK, font, anchor="rm")
        pen.rectangle((label, top + 5, label + WIDTH, top + ROW - 6), fill=LINE)
        known = value == value  # not NaN
        if known:
            right = label + round(WIDTH * min(max(value, 0), 1))
            pen.rectangle((label, top + 5, right, top + ROW - 6), fill=BAR)
        pen.text((label + WIDTH + GAP, middle), texts[name], INK if known else PLAIN, font, anchor="lm")
    return sheet


CELLS = 1000
"""Width of all cells of a matrix together, in pixels, as far as a cell may be that large."""
CELL = (46, 84)
NAMES = 260
"""Most pixels of a name beside a matrix."""


def matrix_chart(counts: Sequence[Sequence[int]], names: Sequence[str]) -> Image.Image:
    """A confusion matrix: each cell says its percentage of its row, and is the darker the larger it is.

    The diagonal is blue, everything else red. Rows and columns are called `names`; to the right of each row
    stands its sum. A row without images is empty.
    """
    side = min(max(CELLS // len(names), CELL[0]), CELL[1])
    font, small = font_of(18), font_of(min(18, side * 2 // 5))
    longest = min(NAMES, round(max(font.getlength(name) for name in names)))
    left, top = longest + 2 * GAP, longest + 2 * GAP
    size = (left + side * len(names) + 90, top + side * len(names) + GAP)
    sheet = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(sheet)
    for place, (name, row) in enumerate(zip(names, counts, strict=True)):
        middle = top + place * side + side // 2
        text = fitted(name, longest, font)
        pen.text((left - GAP, middle), text, INK, font, anchor="rm")
        _upright(sheet, text, (left + place * side + side // 2, top - GAP))
        total = sum(row)
        pen.text((left + side * len(names) + GAP, middle), f"{total:,}", PLAIN, small, anchor="lm")
        for other, count in enumerate(row):
            corner = (left + other * side, top + place * side)
            share = count / total if total else 0.0
            ink = DEEP if place == other else ERROR
            box = (*corner, corner[0] + side - 2, corner[1] + side - 2)
            pen.rectangle(box, fill=_mixed(LINE if place == other else PAPER, ink, share), outline=LINE)
            if count:
                where = (corner[0] + side // 2 - 1, corner[1] + side // 2 - 1)
                text = f"{100 * share:.0f}" if share >= 0.005 else "<1"
                pen.text(where, text, PAPER if share > 0.55 else INK, small, anchor="mm")
    return sheet


def _upright(sheet: Image.Image, text: str, foot: tuple[int, int]) -> None:
    """Text that reads from below to above, standing on `foot`."""
    font = font_of(18)
    strip = Image.new("RGB", (round(font.getlength(text)) + 2, 26), PAPER)
    ImageDraw.Draw(strip).text((0, 13), text, INK, font, anchor="lm")
    turned = strip.rotate(90, expand=True)
    sheet.paste(turned, (foot[0] - turned.width // 2, foot[1] - turned.height))


def _mixed(light: tuple[int, int, int], dark: tuple[int, int, int], share: float) -> tuple[int, int, int]:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(light, dark, strict=True))
    return red, green, blue
