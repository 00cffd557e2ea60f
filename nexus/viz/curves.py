"""`metrics.jsonl` of a run folder as curves: every loss term beside its value at uniform output.

A term of cross-entropy over K prototypes is about ln K (times its weight) while every output is uniform.
A term that stays on that line has learned nothing; a term far below it has learned, or has collapsed:
then the teacher's entropy falls to 0 as well.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nexus.errors import RunError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Record = Mapping[str, Any]
MOST_POINTS = 600
SMOOTH_FROM = 80


@dataclass(frozen=True)
class Theme:
    """Colours of a figure, to be laid on a light or a dark page."""

    ink: str
    grid: str
    curve: str
    reference: str


LIGHT = Theme(ink="#5d5f66", grid="#e4e1d9", curve="#2c6e9b", reference="#c2562d")
DARK = Theme(ink="#a6a8ae", grid="#33353b", curve="#7ab8e0", reference="#ee9268")


@dataclass(frozen=True)
class Panel:
    """One quantity: its key in the metrics, its title, what it tells, and its reference line's key.

    `smooth` draws a local trend over noisy values; schedules are exact and drawn as they are.
    """

    key: str
    title: str
    note: str = ""
    reference: str = ""
    percent: bool = False
    smooth: bool = True


LOSS_PANELS = (
    Panel("loss", "Total loss", "the sum of the terms"),
    Panel(
        "loss/dino_global",
        "DINO, global crops",
        "one global crop predicts the other",
        "uniform/dino_global",
    ),
    Panel(
        "loss/dino_local",
        "DINO, local crops",
        "small crops predict the global ones",
        "uniform/dino_local",
    ),
    Panel("loss/ibot", "iBOT", "hidden patches are predicted from the others", "uniform/ibot"),
    Panel("loss/koleo", "KoLeo", "keeps the images of a batch apart"),
)
RUN_PANELS = (
    Panel(
        "teacher/entropy",
        "Teacher entropy",
        "0 would mean one answer for every image",
        "uniform/entropy",
    ),
    Panel("lr", "Learning rate", "warm-up, then cosine", smooth=False),
    Panel("momentum", "Teacher momentum", "how slowly the teacher follows", smooth=False),
    Panel("teacher_temp", "Teacher temperature", "lower is more decided", smooth=False),
    Panel("weight_decay", "Weight decay", "stronger towards the end", smooth=False),
    Panel("grad_norm/backbone", "Gradient norm", "of the backbone, before clipping"),
    Panel("images_per_second", "Images per second", "over all devices"),
    Panel("data_wait", "Waiting for data", "share of the time", percent=True),
)


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The records of a `metrics.jsonl`, or of the run folder that holds one, in order of their steps.

    A damaged line ends the reading (a killed run may leave half a line). A step that was written twice
    counts once, as written last.
    """
    path = Path(path)
    path = path / "metrics.jsonl" if path.is_dir() else path
    if not path.is_file():
        raise RunError(f"{path} does not exist. Name a run folder, or the metrics.jsonl in it.")
    by_step: dict[int, dict[str, Any]] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            break
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            by_step[record["step"]] = record
    return [by_step[step] for step in sorted(by_step)]


def present(records: Sequence[Record], panels: Sequence[Panel]) -> list[Panel]:
    """The panels that the records have something to show for."""
    return [panel for panel in panels if _series(records, panel.key)[0]]


def panel_figure(records: Sequence[Record], panel: Panel, theme: Theme = LIGHT) -> "Figure":
    """One panel as a figure of its own, without title."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.1, 2.2), layout="constrained")
    _draw(figure.add_subplot(), records, panel, theme)
    return figure


def curves_figure(records: Sequence[Record], theme: Theme = LIGHT, columns: int = 3) -> "Figure":
    """All panels of a run in one figure, for `figure.savefig(...)`."""
    from matplotlib.figure import Figure

    panels = present(records, (*LOSS_PANELS, *RUN_PANELS))
    rows = max(1, -(-len(panels) // columns))
    figure = Figure(figsize=(4.1 * columns, 2.6 * rows))
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.12)
    for place, panel in enumerate(panels, start=1):
        axes = figure.add_subplot(rows, columns, place)
        axes.set_title(panel.title, fontsize=10, color=theme.ink, loc="left")
        _draw(axes, records, panel, theme)
    return figure


def _series(records: Sequence[Record], key: str) -> tuple[list[int], list[float]]:
    """Steps and finite values of one key, thinned to a drawable number of points."""
    stride = max(1, len(records) // MOST_POINTS)
    pairs = list(_pairs(records, key))
    kept = pairs[::stride]
    if pairs and kept[-1] != pairs[-1]:
        kept.append(pairs[-1])
    return [step for step, _ in kept], [value for _, value in kept]


def _pairs(records: Sequence[Record], key: str) -> Iterator[tuple[int, float]]:
    for record in records:
        value = record.get(key)
        if isinstance(value, int | float) and math.isfinite(value):
            yield record["step"], float(value)


def _trend(steps: Sequence[int], values: Sequence[float], share: float) -> list[float]:
    """A straight line fit around each point, over `share` of the points: no lag, no bias at the ends."""
    half = max(2, int(len(values) * share / 2))
    x, y = np.asarray(steps, dtype=float), np.asarray(values, dtype=float)
    trend = []
    for at in range(len(y)):
        window = slice(max(0, at - half), at + half + 1)
        shifted, level = x[window] - x[window].mean(), y[window].mean()
        slope = (shifted @ (y[window] - level)) / max(shifted @ shifted, 1e-12)
        trend.append(float(level + slope * (x[at] - x[window].mean())))
    return trend


def _draw(axes: "Axes", records: Sequence[Record], panel: Panel, theme: Theme) -> None:
    steps, values = _series(records, panel.key)
    marker = "o" if len(values) == 1 else ""
    if panel.smooth and len(values) >= SMOOTH_FROM:
        axes.plot(steps, values, color=theme.curve, lw=0.7, alpha=0.35)
        values = _trend(steps, values, share=0.06)
    axes.plot(steps, values, color=theme.curve, lw=1.8, marker=marker, solid_capstyle="round")
    if panel.reference:
        _draw_reference(axes, records, panel, theme)
    _style(axes, theme)
    if panel.percent:
        from matplotlib.ticker import PercentFormatter

        axes.set_ylim(0, max(0.1, axes.get_ylim()[1]))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))


def _draw_reference(axes: "Axes", records: Sequence[Record], panel: Panel, theme: Theme) -> None:
    steps, values = _series(records, panel.reference)
    if not steps:
        return
    values = _trend(steps, values, share=0.2)
    axes.plot(steps, values, color=theme.reference, lw=1.3, dashes=(4, 3))
    axes.margins(y=0.18)
    axes.annotate(
        "uniform output",
        (steps[-1], values[-1]),
        xytext=(0, 4),
        textcoords="offset points",
        ha="right",
        va="bottom",
        fontsize=8.5,
        color=theme.reference,
    )


def _style(axes: "Axes", theme: Theme) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.grid(axis="y", color=theme.grid, lw=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=theme.ink, labelsize=8.5, length=0)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-3, 4), useOffset=False)
    axes.yaxis.get_offset_text().set(color=theme.ink, fontsize=8.5)
    axes.set_facecolor("none")
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(theme.grid)
