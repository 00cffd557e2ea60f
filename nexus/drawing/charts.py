"""Charts as pictures, drawn with Pillow: no fonts to find, no figure to close."""

from collections.abc import Mapping

from PIL import Image, ImageDraw, ImageFont

from nexus.drawing.tiles import GAP, INK, PAPER, PLAIN

BAR = (127, 176, 209)
LINE = (228, 225, 217)
ROW, LABEL, WIDTH, NUMBER = 26, 200, 420, 70


def bar_chart(values: Mapping[str, float], title: str) -> Image.Image:
    """Shares in 0..1 as horizontal bars, one under the other, each with its name and its percentage."""
    font = ImageFont.load_default(size=14)
    sheet = Image.new("RGB", (LABEL + WIDTH + NUMBER + GAP, ROW * (len(values) + 1) + 2 * GAP), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((LABEL, GAP), title, fill=INK, font=font)
    for line, (name, value) in enumerate(values.items(), start=1):
        top = GAP + line * ROW
        pen.text((LABEL - GAP, top + ROW // 2), name[:26], fill=INK, font=font, anchor="rm")
        pen.rectangle((LABEL, top + 5, LABEL + WIDTH, top + ROW - 6), fill=LINE)
        if value == value:  # not NaN
            pen.rectangle(
                (LABEL, top + 5, LABEL + round(WIDTH * min(max(value, 0), 1)), top + ROW - 6), fill=BAR
            )
        text = f"{100 * value:.1f} %" if value == value else "none"
        pen.text(
            (LABEL + WIDTH + GAP, top + ROW // 2),
            text,
            fill=INK if value == value else PLAIN,
            font=font,
            anchor="lm",
        )
    return sheet
