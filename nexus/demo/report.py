"""`report.html`: what a training learned, on one page that needs no network and no script.

The page opens with one sentence that says whether the features have become better, then shows the
evidence: accuracies with intervals, patch-PCA and nearest neighbours before and after, then how it came
about: loss curves, crops with their masks.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from nexus.drawing.images import data_uri, figure_uri, square, thumbnail
from nexus.drawing.page import document, escaped, percent, section
from nexus.viz.curves import (
    DARK,
    LIGHT,
    LOSS_PANELS,
    RUN_PANELS,
    Panel,
    panel_figure,
    present,
)
from nexus.viz.neighbors import Neighbors, Tile, is_right

SCORES = """
How often frozen features tell from which photograph a test tile was cut: by a vote of the nearest training
tiles (k-NN), and by a linear classifier trained on top. No label was used to train the backbone. Test and
training tiles come from the same photographs, so this is about recognising materials and places.
"""
CURVES = """
Each term of the loss by training step. A model that gives the same answer to every image stays on the
dashed line (ln K times the term’s weight); what lies below it was learned.
"""
CROPS = """
From every tile two large and several small crops are cut. The teacher sees the large ones whole; the
student sees all of them, with patches hidden (dark squares), and has to give the teacher’s answers.
"""
PCA = """
The three strongest directions of the patch features as red, green and blue: patches of one colour mean the
same to the model, in all three photos. An untrained backbone divides them mostly by colour and brightness.
Every tile went in by itself, three of four were trained on, and colours cannot be compared between models.
"""
NEIGHBORS = """
For a test tile, the training tiles that each model holds to be most like it, nearest first. Green frames
show the same photograph, dashed red ones another. Of each photo the test tile of middling contrast was
taken, whatever the result.
"""
SETTINGS = "What was trained, and how."

Z95 = 1.959964
SHEET_WIDTH = 1500
PHOTO_SIDE = 680


@dataclass(frozen=True)
class Score:
    """An accuracy in 0..1 over `total` images, with its 95 % interval."""

    value: float
    total: int

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's score interval, 95 % (Wilson 1927): honest for few images and near 0 and 1."""
        p, n, z = self.value, self.total, Z95
        middle = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return max(0.0, middle - half), min(1.0, middle + half)


@dataclass(frozen=True)
class ScoreRow:
    """One row of the table: what the features are, and how well they tell the classes apart."""

    name: str
    knn: Score
    linear: Score | None = None
    note: str = ""


@dataclass(frozen=True)
class PcaExample:
    """An image with its patch colours before and after training (`patch_pca`, one pixel a patch).

    All three have the same shape: the colours cover the whole image.
    """

    image: Image.Image
    before: Image.Image
    after: Image.Image
    name: str = "photo"


@dataclass(frozen=True)
class Sheet:
    """A contact sheet of crops and masks, with the name of its image."""

    image: Image.Image
    caption: str = ""


@dataclass(frozen=True)
class ReportContent:
    """Everything on the page. Sections with nothing to show are left out.

    `rows` are told apart by position: the last is the teacher, the model that the training is for; `raw` and
    `untrained` name the two rows that the verdict compares it with. `metrics` are the records of
    `metrics.jsonl` (`nexus.viz.read_metrics`). `facts`, `settings` are shown in their order;
    `commands` are pairs of what a command does and the command.
    """

    title: str
    lead: str
    rows: Sequence[ScoreRow]
    classes: int
    raw: str = "raw pixels"
    untrained: str = "untrained backbone"
    facts: Mapping[str, str] = field(default_factory=dict)
    metrics: Sequence[Mapping[str, Any]] = ()
    sheets: Sequence[Sheet] = ()
    pca: Sequence[PcaExample] = ()
    neighbors: Sequence[Neighbors] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    commands: Sequence[tuple[str, str]] = ()


def verdict(content: ReportContent) -> str:
    """One sentence: the last row's k-NN accuracy against untrained and raw pixels, noise admitted."""
    last = content.rows[-1]
    opening = f"The {last.name}’s k-NN is {percent(last.knn.value)}"
    others = {row.name: row for row in content.rows[:-1]}
    compared = [others[name] for name in (content.untrained, content.raw) if name in others]
    if not compared:
        return f"{opening}."
    parts = [_difference(last.knn, row) for row in compared]
    doubtful = [row.name for row in compared if not is_clear(last.knn, row.knn)]
    ending = ""
    if doubtful:
        which = "" if len(doubtful) == len(compared) else f" to {_article(doubtful[0])}"
        ending = f" The difference{which} is within the noise of {last.knn.total} images."
    if len(doubtful) == len(compared) > 1:
        ending = f" Both differences are within the noise of {last.knn.total} images."
    return f"{opening}: {' and '.join(parts)}.{ending}"


def is_clear(first: Score, second: Score) -> bool:
    """Whether two accuracies differ by more than 95 % of chance differences between such test sets.

    The two-proportion z-test. It takes the two for independent; measured on the same images they are
    usually closer, so the test errs towards "not clear".
    """
    pooled = (first.value * first.total + second.value * second.total) / (first.total + second.total)
    spread = math.sqrt(pooled * (1 - pooled) * (1 / first.total + 1 / second.total))
    return abs(first.value - second.value) > Z95 * spread


def write_report(path: str | Path, content: ReportContent) -> Path:
    """Write the page; the path written."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render(content), encoding="utf-8")
    return path


def render(content: ReportContent) -> str:
    """The page as text: one self-contained HTML document."""
    sections = (
        _header(content),
        _scores(content),
        _pca(content),
        _neighbors(content),
        _curves(content),
        _sheets(content),
        _go_on(content),
    )
    body = "\n".join(part for part in sections if part)
    return document(content.title, body)


def _header(content: ReportContent) -> str:
    facts = "".join(
        f"<div><dt>{escaped(name)}</dt><dd>{escaped(value)}</dd></div>"
        for name, value in content.facts.items()
    )
    return (
        f'<header>\n<h1>{escaped(content.title)}</h1>\n<p class="verdict">{escaped(verdict(content))}</p>\n'
        f'<p class="lead">{escaped(content.lead)}</p>\n'
        + (f'<dl class="facts">{facts}</dl>\n' if facts else "")
        + "</header>"
    )


def _scores(content: ReportContent) -> str:
    lines = "\n".join(
        _score_line(row, content, best=at == len(content.rows) - 1) for at, row in enumerate(content.rows)
    )
    total = content.rows[-1].knn.total
    linear = "<th>Linear</th>" if any(row.linear for row in content.rows) else ""
    table = (
        f'<table class="scores"><thead><tr><th>Features</th><th>k-NN</th>'
        f'<th aria-label="k-NN as a bar"></th>{linear}</tr></thead>\n<tbody>\n{lines}\n</tbody></table>'
    )
    foot = (
        '<p class="footnote">Bars show k-NN from 0 to 100\u202f%, whiskers its 95\u202f% interval over '
        f'{total:,} test images; the <span class="key-chance">dashed line</span> is chance, '
        f"{percent(1 / content.classes)}.</p>"
    )
    return section("Are the features better?", SCORES, table + foot)


def _score_line(row: ScoreRow, content: ReportContent, best: bool) -> str:
    low, high = row.knn.interval
    chance = 100 / content.classes
    track = (
        f'<i class="bar" style="width:{100 * row.knn.value:.2f}%"></i>'
        f'<i class="chance" style="left:{chance:.2f}%"></i>'
        f'<i class="interval" style="left:{100 * low:.2f}%;width:{100 * (high - low):.2f}%"></i>'
    )
    note = f"<small>{escaped(row.note)}</small>" if row.note else ""
    cells = (
        f'<th scope="row">{escaped(row.name[:1].upper() + row.name[1:])}{note}</th>'
        + _number("k-NN", row.knn)
        + f'<td class="plot"><div class="track">{track}</div></td>'
    )
    if row.linear is not None:
        cells += _number("Linear", row.linear)
    elif any(other.linear for other in content.rows):
        cells += '<td class="number" data-name="Linear">–</td>'
    return f"<tr{' class=best' if best else ''}>{cells}</tr>"


def _number(name: str, score: Score) -> str:
    low, high = (round(100 * bound) for bound in score.interval)
    interval = f"<small>{low} to {high}\u202f%</small>"
    return f'<td class="number" data-name="{name}">{percent(score.value)}{interval}</td>'


def _curves(content: ReportContent) -> str:
    losses = [_curve(content, panel) for panel in present(content.metrics, LOSS_PANELS)]
    others = [_curve(content, panel) for panel in present(content.metrics, RUN_PANELS)]
    if not losses and not others:
        return ""
    body = f'<div class="curves">{"".join(losses)}</div>'
    if others:
        body += f'<h3>How the run went</h3><div class="curves">{"".join(others)}</div>'
    return section("Loss curves", CURVES, body)


def _curve(content: ReportContent, panel: Panel) -> str:
    light, dark = (figure_uri(panel_figure(content.metrics, panel, theme)) for theme in (LIGHT, DARK))
    note = f"<span>{escaped(panel.note)}</span>" if panel.note else ""
    return (
        f"<figure><figcaption>{escaped(panel.title)}{note}</figcaption><picture>"
        f'<source srcset="{dark}" media="(prefers-color-scheme: dark)">'
        f'<img src="{light}" alt="{escaped(_spoken(content, panel))}"></picture></figure>\n'
    )


def _spoken(content: ReportContent, panel: Panel) -> str:
    """A curve in words: its first and last value."""
    values = [
        record[panel.key] for record in content.metrics if isinstance(record.get(panel.key), int | float)
    ]
    return f"{panel.title} by step, from {values[0]:.3g} to {values[-1]:.3g}"


def _sheets(content: ReportContent) -> str:
    if not content.sheets:
        return ""
    figures = "".join(
        f'<figure><div class="frame"><img src="{data_uri(thumbnail(sheet.image, SHEET_WIDTH), quality=82)}" '
        f'alt="Crops and masks of {escaped(sheet.caption or "an image")}"></div>'
        + (f"<figcaption>{escaped(sheet.caption)}</figcaption>" if sheet.caption else "")
        + "</figure>\n"
        for sheet in content.sheets
    )
    return section("Crops and masks", CROPS, f'<div class="sheets">{figures}</div>')


def _pca(content: ReportContent) -> str:
    if not content.pca:
        return ""
    cards = "".join(
        '<div class="card three">'
        + _picture(data_uri(thumbnail(example.image, PHOTO_SIDE)), example.name)
        + _picture(data_uri(example.before, "PNG"), "before", f"patch colours of {example.name}, ")
        + _picture(data_uri(example.after, "PNG"), "after", f"patch colours of {example.name}, ")
        + "</div>\n"
        for example in content.pca
    )
    return section("What the patches mean", PCA, f'<div class="photos">{cards}</div>')


def _picture(address: str, caption: str, patches: str = "") -> str:
    """A photo, or with `patches`, which opens the text for those who do not see it, a map of patches."""
    style = ' class="patches"' if patches else ""
    return (
        f'<figure><img{style} src="{address}" alt="{escaped(patches + caption)}">'
        f"<figcaption>{escaped(caption)}</figcaption></figure>"
    )


def _neighbors(content: ReportContent) -> str:
    if not content.neighbors:
        return ""
    cards = "".join(
        f'<div class="card likeness">{_query(row.query)}<div>'
        f"{_neighbor_row('before', row.query, row.before)}{_neighbor_row('after', row.query, row.after)}"
        "</div></div>\n"
        for row in content.neighbors
    )
    return section("Nearest neighbours", NEIGHBORS, f'<div class="cards">{cards}</div>')


def _query(tile: Tile) -> str:
    caption = f"<figcaption>{escaped(tile.label)}</figcaption>" if tile.label else ""
    alt = escaped(tile.label or "test photo")
    return f'<figure><img src="{_tile_uri(tile, 200)}" alt="{alt}">{caption}</figure>'


def _neighbor_row(name: str, query: Tile, tiles: Sequence[Tile]) -> str:
    verdicts = [is_right(query, tile) for tile in tiles]
    count = ""
    if any(right is not None for right in verdicts):
        count = f"<span>{sum(right is True for right in verdicts)} of {len(tiles)} right</span>"
    items = "".join(
        f"<li{_frame(right)}>"
        f'<img src="{_tile_uri(tile, 96)}" alt="{escaped(_heard(tile, right))}">'
        f'<span title="{escaped(tile.label)}">{escaped(tile.label)}</span></li>'
        for tile, right in zip(tiles, verdicts, strict=True)
    )
    return f'<div class="row"><p><span>{name}</span>{count}</p><ol>{items}</ol></div>'


def _heard(tile: Tile, right: bool | None) -> str:
    """A neighbour in words, its frame included."""
    verdict = {None: "", True: ", right", False: ", wrong"}[right]
    return (tile.label or "neighbour") + verdict


def _frame(right: bool | None) -> str:
    return "" if right is None else f' class="{"right" if right else "wrong"}"'


def _tile_uri(tile: Tile, side: int) -> str:
    return data_uri(square(tile.image, side), quality=80)


def _go_on(content: ReportContent) -> str:
    settings = "".join(
        f'<tr><th scope="row">{escaped(name)}</th><td>{escaped(value)}</td></tr>'
        for name, value in content.settings.items()
    )
    commands = "".join(
        f"<dt>{escaped(purpose)}</dt><dd><pre>{escaped(command)}</pre></dd>"
        for purpose, command in content.commands
    )
    parts = ""
    if commands:
        parts += section("How to go on", "", f'<dl class="commands">{commands}</dl>')
    if settings:
        parts += section("Settings", SETTINGS, f'<table class="settings">{settings}</table>')
    return parts


def _difference(score: Score, other: ScoreRow) -> str:
    points = round(100 * (score.value - other.knn.value))
    if points == 0:
        return f"level with {_article(other.name)}"
    word = "point" if abs(points) == 1 else "points"
    side = "above" if points > 0 else "below"
    return f"{abs(points)} {word} {side} {_article(other.name)}"


def _article(name: str) -> str:
    return name if name.endswith("s") else f"the {name}"
