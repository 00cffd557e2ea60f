"""Images with their objects on the left and what the detector found on the right."""

from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image, ImageDraw

from nexus.drawing.images import thumbnail
from nexus.drawing.text import font_of
from nexus.drawing.tiles import GAP, HEADING, INK, PAPER
from nexus.evals.instance.average_precision import Detections
from nexus.evals.instance.extra import mask_tools
from nexus.evals.instance.objects import Annotated, Objects, Rle
from nexus.evals.instance.training import best_first
from nexus.evals.task import EvalPicture

SIDE = 380
LEAST, MOST = 0.5, 30
FEW = 5
"""Detections of an image that are shown where none reaches `LEAST`."""
COLOURS = ((214, 96, 48), (44, 110, 155), (47, 133, 90), (150, 82, 158), (201, 158, 33), (60, 150, 160))


def draw(data: Annotated, found: Sequence[Detections | None], count: int) -> Iterator[EvalPicture]:
    """One picture of the first `count` test images that can be read and have objects."""
    rows = [i for i, one in enumerate(data.objects) if len(one) and found[i] is not None][:count]
    if rows:
        yield EvalPicture(
            "Detections",
            f"Annotated objects on the left; on the right what was found with a score of {LEAST} or more, or"
            f" the best {FEW} of an image where nothing has.",
            detection_sheet(data, found, rows),
        )


def detection_sheet(data: Annotated, found: Sequence[Detections | None], rows: Sequence[int]) -> Image.Image:
    """One line for each image: truth, detections."""
    lines = []
    for row in rows:
        image, answer = data.images[row].image.convert("RGB"), found[row]
        assert answer is not None
        kept = shown_rows(answer)
        lines.append(
            (_truth(image, data.objects[row], data.classes), _found(image, answer, kept, data.classes))
        )
    height = HEADING + GAP + sum(left.height + GAP for left, _ in lines)
    sheet = Image.new("RGB", (2 * SIDE + 3 * GAP, height), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((GAP, GAP), "annotated", fill=INK)
    pen.text((2 * GAP + SIDE, GAP), "found", fill=INK)
    top = HEADING + GAP
    for left, right in lines:
        sheet.paste(left, (GAP, top))
        sheet.paste(right, (2 * GAP + SIDE, top))
        top += left.height + GAP
    return sheet


def shown_rows(answer: Detections) -> list[int]:
    """The rows of the detections that are drawn, best first."""
    return best_first(answer.scores, LEAST)[:MOST] or best_first(answer.scores, 0.0)[:FEW]


def _truth(image: Image.Image, objects: Objects, classes: Sequence[str]) -> Image.Image:
    names = [
        classes[label] + (" (crowd)" if many else "")
        for label, many in zip(objects.labels, objects.crowd, strict=True)
    ]
    return _marked(image, objects.boxes, objects.labels, names, objects.masks)


def _found(image: Image.Image, answer: Detections, kept: list[int], classes: Sequence[str]) -> Image.Image:
    names = [f"{classes[answer.labels[i]]} {answer.scores[i]:.2f}" for i in kept]
    masks = None if answer.masks is None else tuple(answer.masks[i] for i in kept)
    return _marked(image, answer.boxes[kept], answer.labels[kept], names, masks)


def _marked(
    image: Image.Image, boxes: np.ndarray, labels: np.ndarray, names: list[str], masks: Sequence[Rle] | None
) -> Image.Image:
    """The image with coloured masks, boxes and names, at most `SIDE` pixels."""
    pixels = np.asarray(image).astype(np.float32)
    for mask, label in zip(masks or (), labels, strict=False):
        inside = mask_tools().decode(mask).astype(bool)
        pixels[inside] = 0.5 * pixels[inside] + 0.5 * np.array(COLOURS[int(label) % len(COLOURS)])
    small = thumbnail(Image.fromarray(pixels.astype(np.uint8)), SIDE)
    scale = small.width / image.width
    pen, font = ImageDraw.Draw(small), font_of(11)
    for box, label, name in zip(boxes * scale, labels, names, strict=True):
        colour = COLOURS[int(label) % len(COLOURS)]
        left, top, right, bottom = (float(edge) for edge in box)
        pen.rectangle((left, top, max(left, right), max(top, bottom)), outline=colour, width=2)
        pen.text((left + 3, top + 1), name, fill=colour, font=font, stroke_width=1, stroke_fill=PAPER)
    return small
