"""`eval.html`: the table with its intervals, then what each task has to show, on one page without network.

Bars run from 0 to 100 %, whiskers are 95 % intervals, the dashed line is chance. Values in other units have
no bar. Pictures are those of the tasks, of the model alone.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nexus.drawing.images import smallest_uri, thumbnail
from nexus.drawing.page import document, escaped, section
from nexus.evals.results import Entry
from nexus.evals.task import EvalPicture
from nexus.figures import quantity

WIDEST, READABLE = 1500, 640
"""Most pixels of a picture, and the fewest that it is shown at where it has so many."""
TABLE = """
What the frozen features are worth, with the 95 % interval over the test images, and the same on raw pixels.
Where two intervals overlap widely, the difference may be chance.
"""
NONE = "–"
SHORT = 80
"""Longest text among the figures of a task."""


def eval_page(result: Entry, pictures: Mapping[str, Iterable[EvalPicture]]) -> str:
    """The page of a result of `nexus.evaluate`, with the pictures of each task by its name."""
    title = f"Evaluation of {short(result['model'])}"
    parts = [_header(title, result), section("What was measured", TABLE, _table(result["table"]))]
    parts += [_task(name, result[name], list(drawn), result["split"]) for name, drawn in pictures.items()]
    return document(title, "\n".join(parts))


def verdict(result: Entry) -> str:
    """One sentence: the first task's headline, and raw pixels beside it."""
    first, *others = result["table"]
    own = f"{first['task']} on {short(result['data'])}: {first['metric']} {_value(first)}"
    raw = next((row for row in others if row["task"] == first["task"]), None)
    return f"{own}, raw pixels {_value(raw)}." if raw else f"{own}."


def short(place: str) -> str:
    """The last part of a path; anything else as it is."""
    return Path(place).name or place


def _header(title: str, result: Entry) -> str:
    facts = {"Model": result["model"], "Data": result["data"], "Split": result["split"]}
    if result.get("size"):
        facts["Size"] = f"{result['size']} px"
    if result.get("unreadable"):
        facts["Left out, unreadable"] = f"{len(result['unreadable']):,} images"
    shown = "".join(
        f"<div><dt>{escaped(name)}</dt><dd>{escaped(str(value))}</dd></div>" for name, value in facts.items()
    )
    return (
        f'<header>\n<h1>{escaped(title)}</h1>\n<p class="verdict">{escaped(verdict(result))}</p>\n'
        f'<dl class="facts">{shown}</dl>\n</header>'
    )


def _table(rows: Iterable[Mapping[str, Any]]) -> str:
    lines = "\n".join(_line(row) for row in rows)
    return (
        '<table class="scores"><thead><tr><th>Task</th><th>Value</th><th aria-label="as a bar"></th>'
        f"<th>Images</th></tr></thead>\n<tbody>\n{lines}\n</tbody></table>"
        '<p class="footnote">Shares are in percent; the <span class="key-chance">dashed line</span> is '
        "chance, where it is known.</p>"
    )


def _line(row: Mapping[str, Any]) -> str:
    low, high = row["interval"]
    note = f"{row['metric']}, {row['features']}" + ("" if row["higher_is_better"] else ", lower is better")
    best = " class=best" if row["features"] == "model" else ""
    return (
        f'<tr{best}><th scope="row">{escaped(row["task"])}<small>{escaped(note)}</small></th>'
        f'<td class="number" data-name="Value">{_value(row)}'
        f"<small>{_number(low, row['unit'])} to {_number(high, row['unit'])}</small></td>"
        f'<td class="plot">{_track(row)}</td>'
        f'<td class="number" data-name="Images">{row["samples"]:,}</td></tr>'
    )


def _track(row: Mapping[str, Any]) -> str:
    """A bar with whiskers for a share, what guessing gives for other units, nothing for what is no number."""
    low, high = row["interval"]
    if row["unit"] != "%":
        guess = _number(row["chance"], row["unit"])
        return "" if guess == NONE else f'<small class="guess">guessing: {guess}</small>'
    if any(value is None or value != value for value in (row["value"], low, high)):
        return ""
    chance = row["chance"]
    dashed = "" if chance is None else f'<i class="chance" style="left:{100 * chance:.2f}%"></i>'
    return (
        f'<div class="track"><i class="bar" style="width:{100 * row["value"]:.2f}%"></i>{dashed}'
        f'<i class="interval" style="left:{100 * low:.2f}%;width:{100 * (high - low):.2f}%"></i></div>'
    )


def _value(row: Mapping[str, Any]) -> str:
    return _number(row["value"], row["unit"])


def _number(value: float | None, unit: str) -> str:
    if value is None or value != value:
        return NONE
    return quantity(value, escaped(unit), ".3g", gap="\u202f")


def _task(name: str, found: Entry, pictures: list[EvalPicture], split: str) -> str:
    """The pictures of a task and its plain figures; its split where it is not the `split` of the page."""
    figures = "".join(map(_figure, pictures))
    plain = {key: value for key, value in found.items() if key != found["metric"] and _is_plain(key, value)}
    lines = "".join(
        f'<tr><th scope="row">{escaped(key.replace("_", " "))}</th><td>{escaped(_text(value))}</td></tr>'
        for key, value in plain.items()
    )
    table = f'<table class="settings">{lines}</table>' if lines else ""
    own = found.get("split", "")
    return section(name, "" if own == split else own, f'<div class="sheets">{figures}</div>{table}')


def _figure(picture: EvalPicture) -> str:
    """A picture at its own size, smaller where the page is narrower, but never too small to read."""
    image = thumbnail(picture.image, WIDEST)
    size = f"max-width:{image.width}px;min-width:{min(READABLE, image.width)}px"
    return (
        f"<figure><h3>{escaped(picture.title)}</h3>"
        f'<div class="frame"><img src="{smallest_uri(image)}" style="{size}" alt="{escaped(picture.title)}">'
        f"</div><figcaption>{escaped(picture.caption)}</figcaption></figure>\n"
    )


SAID = {"metric", "unit", "higher_is_better", "interval", "samples", "value", "split", "chance", "top1"}
"""Figures that stand in the table already."""


def _is_plain(key: str, value: Any) -> bool:
    if key in SAID:
        return False
    return isinstance(value, bool | int | float) or (isinstance(value, str) and len(value) < SHORT)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
