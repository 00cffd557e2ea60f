"""Words in pictures: the font, and names that are too long for their place."""

from PIL import ImageFont

Font = ImageFont.ImageFont | ImageFont.FreeTypeFont


def font_of(size: int) -> Font:
    """Pillow's own font, at that height in pixels."""
    return ImageFont.load_default(size=size)


def fitted(text: str, width: int, font: Font) -> str:
    """As much of the text as goes into `width` pixels, with an ellipsis where it was cut."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"
