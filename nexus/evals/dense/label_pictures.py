"""Pictures of label maps: image, truth, prediction, errors side by side, with a legend."""

import colorsys
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from nexus.data.dense import VOID, DenseDataset
from nexus.drawing.text import font_of
from nexus.evals.dense.confusion import Counts
from nexus.evals.task import EvalPicture

WIDTH = 320
GAP = 6
ROWS = 6
INK = (32, 32, 36)
PAPER = (255, 255, 255)
VOID_COLOUR = (0, 0, 0)
WRONG = (214, 39, 40)
LEGEND_COLUMNS = 4
MOST_IN_LEGEND = 40


def class_colours(count: int) -> UInt8[np.ndarray, "classes 3"]:
    """A colour for each class: hues by the golden ratio, in three strengths, so that neighbours differ."""
    tones = ((0.75, 0.90), (0.55, 0.65), (0.40, 0.98))
    hues = [(0.61803398875 * i) % 1.0 for i in range(count)]
    colours = [colorsys.hsv_to_rgb(hue, *tones[i % 3]) for i, hue in enumerate(hues)]
    return (np.array(colours).reshape(count, 3) * 255).round().astype(np.uint8)


def painted(
    labels: Integer[np.ndarray, "height width"], colours: UInt8[np.ndarray, "classes 3"]
) -> Image.Image:
    """A label map in colours; void is black."""
    table = np.vstack([colours, np.array([VOID_COLOUR], dtype=np.uint8)])
    return Image.fromarray(table[np.where(labels == VOID, len(colours), labels)])


def errors(
    image: Image.Image,
    truth: Integer[np.ndarray, "height width"],
    predicted: Integer[np.ndarray, "height width"],
) -> Image.Image:
    """The image in grey where the prediction is right, red where it is wrong, black where nobody knows."""
    grey = np.asarray(image.convert("L").resize((truth.shape[1], truth.shape[0])), dtype=np.float32)
    picture = np.repeat((0.6 * grey + 80)[..., None], 3, axis=2)
    wrong = (truth != predicted) & (truth != VOID)
    picture[wrong] = 0.35 * picture[wrong] + 0.65 * np.array(WRONG)
    picture[truth == VOID] = VOID_COLOUR
    return Image.fromarray(picture.clip(0, 255).astype(np.uint8))


def draw_labels(
    head: str,
    kept: Mapping[int, Integer[Tensor, "height width"]],
    rows: Sequence[int],
    test: DenseDataset,
    counts: Counts,
) -> Iterator[EvalPicture]:
    """One picture: the test images that came out worst, in the middle, and best."""
    accuracy = counts.image_accuracy()
    known = [position for position in kept if bool(accuracy[position].isfinite())]
    known.sort(key=lambda position: float(accuracy[position]))
    if not known:
        return
    chosen = [known[round(i)] for i in np.linspace(0, len(known) - 1, min(ROWS, len(known)))]
    colours = class_colours(len(test.classes))
    bands = []
    for position in chosen:
        sample = test[rows[position]]
        predicted = kept[position].numpy()
        panels = [
            sample.image,
            painted(sample.truth, colours),
            painted(predicted, colours),
            errors(sample.image, sample.truth, predicted),
        ]
        bands.append((panels, f"{sample.name}: {100 * float(accuracy[position]):.0f} % of the pixels right"))
    sheet = side_by_side(bands, ("image", "truth", "prediction", "errors (red)"))
    names = [f"{n} {_percent(v)}" for n, v in zip(test.classes, counts.ious(), strict=True)]
    picture = below(sheet, legend(names, colours, sheet.width))
    caption = (
        f"{len(chosen)} of {len(known)} test images, from the worst to the best. Black is void. Beside each "
        "class"
        " its IoU over all test images."
    )
    yield EvalPicture(f"Segmentation, {head} head", caption, picture)


def side_by_side(
    bands: Sequence[tuple[Sequence[Image.Image], str]], titles: Sequence[str], width: int = WIDTH
) -> Image.Image:
    """Rows of panels of one width, a title over each column and a line under each row; photographs first."""
    font = font_of(13)
    line = 20
    heights = [max(1, round(width * panels[0].height / panels[0].width)) for panels, _ in bands]
    total = line + sum(height + line + GAP for height in heights)
    columns = max(len(panels) for panels, _ in bands)
    sheet = Image.new("RGB", (columns * (width + GAP) - GAP, total), PAPER)
    pen = ImageDraw.Draw(sheet)
    for column, title in enumerate(titles):
        pen.text((column * (width + GAP), 2), title, INK, font)
    top = line
    for (panels, text), height in zip(bands, heights, strict=True):
        for column, panel in enumerate(panels):
            how = Image.Resampling.NEAREST if column else Image.Resampling.LANCZOS  # colours have a meaning
            shown = panel.convert("RGB").resize((width, height), how)
            sheet.paste(shown, (column * (width + GAP), top))
        pen.text((0, top + height + 2), text, INK, font)
        top += height + line + GAP
    return sheet


def legend(names: Sequence[str], colours: UInt8[np.ndarray, "classes 3"], width: int) -> Image.Image:
    """A square of its colour and the name for each class, 40 of them at most."""
    font = font_of(13)
    shown = list(names)[:MOST_IN_LEGEND]
    more = len(names) - len(shown)
    lines = -(-(len(shown) + bool(more)) // LEGEND_COLUMNS)
    sheet = Image.new("RGB", (width, 20 * lines + 4), PAPER)
    pen = ImageDraw.Draw(sheet)
    for i, name in enumerate([*shown, *([f"and {more} more"] if more else [])]):
        left, top = (i % LEGEND_COLUMNS) * (width // LEGEND_COLUMNS), 20 * (i // LEGEND_COLUMNS) + 2
        if i < len(shown):
            pen.rectangle((left, top + 2, left + 12, top + 14), tuple(int(c) for c in colours[i]))
        pen.text((left + 18, top), name, INK, font)
    return sheet


def below(upper: Image.Image, lower: Image.Image) -> Image.Image:
    """One picture under the other."""
    sheet = Image.new("RGB", (max(upper.width, lower.width), upper.height + lower.height), PAPER)
    sheet.paste(upper, (0, 0))
    sheet.paste(lower, (0, upper.height))
    return sheet


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f} %"
