"""Pictures of a classification: which classes are confused, and the mistakes that it was surest of."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from nexus.data.datasets import ImageDataset
from nexus.drawing.charts import bar_chart, matrix_chart
from nexus.drawing.text import fitted, font_of
from nexus.drawing.tiles import INK, PAPER, PLAIN, WRONG, framed
from nexus.errors import ImageError
from nexus.evals.corruptions import CorruptedDataset
from nexus.evals.mistakes import MOST_CLASSES, Guesses
from nexus.evals.task import EvalPicture

SIDE, SPACE, CLOSE, LINE = 226, 20, 5, 24
"""A tile, the gap between two, the gap in a pair, a line of text: in pixels, shown smaller."""
COLUMNS = 6
"""Tiles in a row."""

Opened = Callable[[int], Image.Image]
"""The image of a row; `ImageError` where it cannot be read any more."""


@dataclass(frozen=True)
class ClassImages:
    """The images behind the features of a classification, to show what became of them."""

    train: ImageDataset
    test: ImageDataset


def by_name(dataset: ImageDataset | CorruptedDataset) -> Callable[[str], Image.Image]:
    """A function from names to images of a data set."""
    rows = {dataset.name(i): i for i in range(len(dataset))}
    return lambda name: dataset[rows[name]].image


@dataclass(frozen=True)
class Neighbor:
    """The training image that is most like a test image: its row, its class, and how rows are opened."""

    row: int
    label: int
    opened: Opened


def class_pictures(
    guesses: Guesses, called: Sequence[str], images: ClassImages
) -> Callable[[], Iterator[EvalPicture]]:
    """Draws confusion and worst mistakes when it is called."""

    def draw() -> Iterator[EvalPicture]:
        image = by_name(images.test)
        yield from draw_classes(guesses, called, lambda row: image(guesses.names[row]))

    return draw


def draw_classes(
    guesses: Guesses,
    called: Sequence[str],
    opened: Opened,
    neighbor: Callable[[int], Neighbor] | None = None,
    of: str = "test images",
) -> Iterator[EvalPicture]:
    """Confusion, then the worst mistakes.

    Classes are `called` so. `opened` gives the image of a row of `guesses`, `neighbor` its nearest training
    image. `of` says what was shown to the classifier.
    """
    yield from _confusion(guesses, called, of)
    worst = guesses.worst()
    if not worst:
        return
    caption = f"Of {len(guesses.wrong):,} wrong answers for {len(guesses.truth):,} {of} the surest."
    caption += " Below each image what it is, then what was said, and how sure that was."
    if neighbor is not None:
        caption += " Beside it the training image that is most like it: green if it is of the right class."
    yield EvalPicture("Worst mistakes", caption, mistake_sheet(guesses, worst, called, opened, neighbor))


def _confusion(guesses: Guesses, called: Sequence[str], of: str) -> Iterator[EvalPicture]:
    if len(called) <= MOST_CLASSES:
        yield EvalPicture(
            "Confusion",
            f"Rows are what the {of} show, columns what was said, in percent of the row. The number of images"
            " is to the right of the row.",
            matrix_chart(guesses.counts(len(called)).tolist(), called),
        )
    elif pairs := guesses.pairs():
        names = [f"{called[truth]}, taken for {called[guess]}" for truth, guess, _, _ in pairs]
        shares = {name: wrong / images for name, (_, _, wrong, images) in zip(names, pairs, strict=True)}
        counts = [f"{wrong:,} of {images:,}" for _, _, wrong, images in pairs]
        yield EvalPicture(
            "Most confused",
            f"Of {len(called):,} classes the pairs with the most wrong answers, as a share of the {of} of the"
            " first.",
            bar_chart(shares, "", dict(zip(names, counts, strict=True))),
        )


def mistake_sheet(
    guesses: Guesses,
    rows: Sequence[int],
    called: Sequence[str],
    opened: Opened,
    neighbor: Callable[[int], Neighbor] | None = None,
) -> Image.Image:
    """Images in red frames with what they are and what was said; beside each its nearest training image."""
    pair = 1 if neighbor is None else 2
    columns = COLUMNS // pair
    width, height = pair * SIDE + (pair - 1) * CLOSE + SPACE, SIDE + 2 * LINE + SPACE
    size = (SPACE + columns * width, SPACE + -(-len(rows) // columns) * height)
    sheet = Image.new("RGB", size, PAPER)
    for number, row in enumerate(rows):
        left, top = SPACE + number % columns * width, SPACE + number // columns * height
        truth, guess = called[int(guesses.truth[row])], called[int(guesses.guess[row])]
        said = f"{guess}, {100 * float(guesses.confidence[row]):.0f} %"
        _put(sheet, (left, top), framed(_or_grey(opened, row), False, SIDE), (truth, said))
        if neighbor is not None:
            near = neighbor(row)
            tile = framed(_or_grey(near.opened, near.row), near.label == int(guesses.truth[row]), SIDE)
            _put(sheet, (left + SIDE + CLOSE, top), tile, (f"nearest: {called[near.label]}",))
    return sheet


def _put(sheet: Image.Image, place: tuple[int, int], tile: Image.Image, texts: Sequence[str]) -> None:
    """A tile with lines of text below, the second of them red."""
    sheet.paste(tile, place)
    pen, font = ImageDraw.Draw(sheet), font_of(19)
    for line, text in enumerate(texts):
        where = (place[0], place[1] + SIDE + 4 + line * LINE)
        pen.text(where, fitted(text, SIDE, font), WRONG if line else INK, font)


def _or_grey(opened: Opened, row: int) -> Image.Image:
    try:
        return opened(row)
    except ImageError:
        return Image.new("RGB", (SIDE, SIDE), PLAIN)
