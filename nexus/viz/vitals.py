"""The vital signs of a run as curves, with the limits beyond which the doctor calls it ill."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from nexus.health.course import Course
from nexus.health.vitals import Vital
from nexus.viz.curves import LIGHT, Theme

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CONSTANT = {"health/detail", "health/colour", "health/copies"}
"""Signs of the images, which do not change: a row of the table, not a curve."""
MOST_POINTS = 400


def vitals_figure(
    course: Course, vitals: Sequence[Vital], theme: Theme = LIGHT, columns: int = 3
) -> "Figure":
    """One panel a sign, for `figure.savefig(...)`; those that are ill are drawn in the colour of warnings."""
    from matplotlib.figure import Figure

    shown = [vital for vital in vitals if vital.sign.key not in CONSTANT]
    rows = max(1, -(-len(shown) // columns))
    figure = Figure(figsize=(4.1 * columns, 2.3 * rows))
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.1)
    for place, vital in enumerate(shown, start=1):
        _draw(figure.add_subplot(rows, columns, place), course, vital, theme)
    return figure


def _draw(axes: "Axes", course: Course, vital: Vital, theme: Theme) -> None:
    pairs = course.of(vital.sign.key)
    pairs = pairs[:: max(1, len(pairs) // MOST_POINTS)]
    steps, values = [step for step, _ in pairs], [value for _, value in pairs]
    colour = theme.curve if not vital.ill else theme.reference
    axes.plot(steps, values, color=colour, lw=1.8, marker="o" if len(pairs) < 12 else "", ms=3.5)
    axes.margins(y=0.15)
    if max(values) - min(values) < 1e-9:  # else a constant would get an axis around it that means nothing
        axes.set_ylim(values[0] - 0.05, values[0] + 0.05)
    if min(values) >= 0.0:
        axes.set_ylim(bottom=max(axes.get_ylim()[0], -0.02 * max(values)))
    for limit in (vital.sign.low, vital.sign.high):
        _draw_limit(axes, limit, vital, theme)
    mark = "" if not vital.ill else "  (ill)"
    axes.set_title(vital.sign.title + mark, fontsize=10, color=colour if mark else theme.ink, loc="left")
    _style(axes, theme, percent=vital.sign.percent)


def _draw_limit(axes: "Axes", limit: float | None, vital: Vital, theme: Theme) -> None:
    """A dashed line, and a shade beyond it; nothing where the limit lies far from the curve."""
    if limit is None:
        return
    low, high = axes.get_ylim()
    room = high - low
    if not low - 1.5 * room <= limit <= high + 1.5 * room:
        return
    axes.set_ylim(min(low, limit - 0.08 * room), max(high, limit + 0.08 * room))
    bottom, top = axes.get_ylim()
    beyond = (bottom, limit) if limit == vital.sign.low else (limit, top)
    axes.axhspan(*beyond, color=theme.reference, alpha=0.10, lw=0)
    axes.axhline(limit, color=theme.reference, lw=1.2, dashes=(4, 3))


def _style(axes: "Axes", theme: Theme, *, percent: bool) -> None:
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    if percent:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(axis="y", color=theme.grid, lw=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=theme.ink, labelsize=8.5, length=0)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(theme.grid)
