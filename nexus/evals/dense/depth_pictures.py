"""Pictures of depth: image, truth, prediction, error side by side, with bars that say how many metres."""

from collections.abc import Iterator, Mapping, Sequence

import matplotlib
import numpy as np
from jaxtyping import Bool, Float
from PIL import Image, ImageDraw
from torch import Tensor

from nexus.data.dense import DenseDataset
from nexus.drawing.text import font_of
from nexus.evals.dense.label_pictures import GAP, INK, PAPER, ROWS, WIDTH, below, side_by_side
from nexus.evals.task import EvalPicture

DEPTH_COLOURS = "turbo_r"
ERROR_COLOURS = "magma"
UNKNOWN = (0, 0, 0)
SPARSE = 0.3
"""Below this share of measured pixels they are drawn larger, or nobody would see them."""


def coloured(
    values: Float[np.ndarray, "height width"],
    known: Bool[np.ndarray, "height width"],
    low: float,
    high: float,
    colours: str,
) -> Image.Image:
    """Numbers between `low` and `high` as colours, black where they are not known."""
    share = np.clip((values - low) / max(high - low, 1e-9), 0, 1)
    picture = (matplotlib.colormaps[colours](share)[..., :3] * 255).round().astype(np.uint8)
    picture[~known] = UNKNOWN
    return Image.fromarray(picture)


def draw_depth(
    head: str,
    kept: Mapping[int, Float[Tensor, "height width"]],
    rows: Sequence[int],
    rmse: Float[Tensor, " samples"],
    test: DenseDataset,
    max_depth: float,
) -> Iterator[EvalPicture]:
    """One picture: the test images that came out worst, in the middle, and best."""
    known = sorted(kept, key=lambda position: -float(rmse[position]))
    if not known:
        return
    chosen = [known[round(i)] for i in np.linspace(0, len(known) - 1, min(ROWS, len(known)))]
    samples = [test[rows[position]] for position in chosen]
    predictions = [kept[position].float().numpy() for position in chosen]
    measured = [(sample.truth > 0) & (sample.truth <= max_depth) for sample in samples]
    seen = np.concatenate([s.truth[m] for s, m in zip(samples, measured, strict=True)])
    low, high = float(np.quantile(seen, 0.01)), float(np.quantile(seen, 0.99))
    errors = [np.abs(p - s.truth) for p, s in zip(predictions, samples, strict=True)]
    worst = float(np.quantile(np.concatenate([e[m] for e, m in zip(errors, measured, strict=True)]), 0.95))
    bands = []
    for position, sample, predicted, error, mask in zip(
        chosen, samples, predictions, errors, measured, strict=True
    ):
        everywhere = np.ones_like(mask)
        truth, seen_at = _fattened(sample.truth, mask)
        wrong, _ = _fattened(error, mask)
        panels = [
            sample.image,
            coloured(truth, seen_at, low, high, DEPTH_COLOURS),
            coloured(predicted, everywhere, low, high, DEPTH_COLOURS),
            coloured(wrong, seen_at, 0, worst, ERROR_COLOURS),
        ]
        bands.append((panels, f"{sample.name}: RMSE {float(rmse[position]):.2f} m"))
    sheet = side_by_side(bands, ("image", "truth", "prediction", "error"))
    bars = Image.new("RGB", (sheet.width, 44), PAPER)
    bars.paste(bar(low, high, DEPTH_COLOURS, 2 * WIDTH + GAP), (WIDTH + GAP, 0))
    bars.paste(bar(0, worst, ERROR_COLOURS, WIDTH), (3 * (WIDTH + GAP), 0))
    caption = (
        f"{len(chosen)} of {len(known)} test images, from the worst to the best. Black was not measured."
    )
    yield EvalPicture(f"Depth, {head} head", caption, below(sheet, bars))


def bar(low: float, high: float, colours: str, width: int) -> Image.Image:
    """A colour bar with metres at its ends and in the middle."""
    font = font_of(13)
    ramp = np.linspace(low, high, width)[None].repeat(14, 0)
    sheet = Image.new("RGB", (width, 44), PAPER)
    sheet.paste(coloured(ramp, np.ones_like(ramp, dtype=bool), low, high, colours), (0, 4))
    pen = ImageDraw.Draw(sheet)
    for share, anchor in ((0.0, "la"), (0.5, "ma"), (1.0, "ra")):
        pen.text((share * (width - 1), 22), f"{low + share * (high - low):.2g} m", INK, font, anchor)
    return sheet


def _fattened(
    values: Float[np.ndarray, "height width"], known: Bool[np.ndarray, "height width"]
) -> tuple[np.ndarray, np.ndarray]:
    """Sparse points as squares, so that they can be seen; dense maps as they are."""
    if known.mean() >= SPARSE:
        return values, known
    reach = max(1, round(values.shape[1] / WIDTH))
    wide, spread = values.copy(), known.copy()
    for down, across in np.ndindex(2 * reach + 1, 2 * reach + 1):
        shift = (down - reach, across - reach)
        there = np.roll(known, shift, (0, 1)) & ~spread
        wide[there] = np.roll(values, shift, (0, 1))[there]
        spread |= there
    return wide, spread
