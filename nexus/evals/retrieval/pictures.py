"""What a person wants to see of a search: queries with what they found, and which changes were hard."""

from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageDraw

from nexus.data.datasets import ImageDataset
from nexus.drawing.charts import bar_chart
from nexus.drawing.tiles import GAP, HEADING, INK, PAPER, PLAIN, TILE, framed
from nexus.errors import ImageError
from nexus.evals.retrieval.scoring import Answers
from nexus.evals.retrieval.search import Search
from nexus.evals.task import EvalPicture


def draw(
    found: Search, answers: Answers, order: list[int], changes: dict[str, float]
) -> Iterator[EvalPicture]:
    """Pictures of the queries in `order`, and the mAP of each transform, if there are any."""
    if changes:
        hardest = dict(sorted(changes.items(), key=lambda item: item[1]))
        yield EvalPicture(
            "Which changes are hard",
            "mAP of the copies that were changed in each way, the hardest first.",
            bar_chart(hardest, "mAP"),
        )
    if order:
        yield EvalPicture(
            "Nearest neighbours",
            "Queries on the left, in equal steps from the best to the worst answered, and what was nearest. "
            "Green: right. Red: wrong. Grey: what the protocol does not count.",
            neighbor_sheet(found, answers, order),
        )


def from_best_to_worst(precision: np.ndarray, count: int) -> list[int]:
    """`count` queries, evenly spaced when they are sorted by average precision; NaN ones left out."""
    known = np.flatnonzero(~np.isnan(precision))
    ranked = known[np.argsort(-precision[known], kind="stable")]
    places = np.linspace(0, len(ranked) - 1, min(count, len(ranked))).round().astype(int)
    return [int(ranked[place]) for place in places]


def neighbor_sheet(found: Search, answers: Answers, order: list[int]) -> Image.Image:
    """One row for each query: its picture, a gap, and the nearest images in frames."""
    step = TILE + GAP
    truth = next(iter(found.truths.values()))
    width = 3 * GAP + (1 + answers.nearest.shape[1]) * step
    sheet = Image.new("RGB", (width, HEADING + GAP + len(order) * step), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((GAP, GAP), "query", fill=INK)
    pen.text((3 * GAP + step, GAP), "nearest first", fill=INK)
    for line, query in enumerate(order):
        top = HEADING + GAP + line * step
        right, ignored = (set(rows.tolist()) for rows in truth.of(query))
        sheet.paste(framed(_image(found.queries, query)), (GAP, top))
        for place, row in enumerate(answers.nearest[query].tolist()):
            if row >= 0:
                good = None if row in ignored else row in right
                corner = (3 * GAP + (1 + place) * step, top)
                sheet.paste(framed(_image(found.gallery, row), good), corner)
    return sheet


def _image(dataset: ImageDataset, row: int) -> Image.Image:
    try:
        return dataset[row].image
    except ImageError:
        return Image.new("RGB", (TILE, TILE), PLAIN)
