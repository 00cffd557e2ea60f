"""Small square pictures in frames whose colour says whether they are right."""

from PIL import Image

from nexus.drawing.images import square

RIGHT = (47, 133, 90)
WRONG = (197, 68, 52)
PLAIN = (140, 140, 146)
PAPER = (250, 249, 246)
INK = (38, 38, 44)
TILE, FRAME, GAP, HEADING = 112, 5, 10, 22


def framed(image: Image.Image, right: bool | None = None, side: int = TILE) -> Image.Image:
    """The middle square of an image in a green (right), red (wrong) or grey (nobody knows) frame."""
    tile = Image.new("RGB", (side, side), PLAIN if right is None else RIGHT if right else WRONG)
    tile.paste(square(image, side - 2 * FRAME), (FRAME, FRAME))
    return tile
