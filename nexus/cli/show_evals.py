"""What `nexus eval` and `nexus compare` print."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from nexus.cli.show import terminal
from nexus.figures import number

Row = dict[str, Any]


def eval_table(result: Row, place: Path | None = None) -> None:
    """One row a model (or baseline) and task, with its interval and the chance level, and the file."""
    terminal().print(_scores(result["table"], f"{result['model']} on {result['data']}"))
    _written(place, "eval.json")


def comparison(result: Row, place: Path | None = None) -> None:
    """The scores side by side, the differences, and which of them are real."""
    say = terminal().print
    say(_scores(result["table"], f"{len(result['models'])} models on {result['data']}"))
    for a, b in result["same"]:
        say(f"{b} is the same model as {a}: equal weights")
    found = result["differences"]
    count = sum(not one["same_answers"] for one in found)
    table = Table(title=f"differences, paired; p adjusted for {count} comparison{'s' * (count != 1)} (Holm)")
    for column in ("task", "metric", "A", "B", "A − B", "95 % interval", "p", "better"):
        left = column in ("task", "metric", "A", "B", "better")
        table.add_column(column, justify="left" if left else "right")
    for one in found:
        low, high = (number(value, one["unit"], sign="+") for value in one["interval"])
        verdict = one["better"] or ("same answers" if one["same_answers"] else "not told apart")
        table.add_row(
            one["task"],
            one["metric"],
            one["a"],
            one["b"],
            number(one["difference"], one["unit"], sign="+"),
            f"{low} – {high}",
            "< 0.001" if one["p_adjusted"] < 0.001 else f"{one['p_adjusted']:.3f}",
            verdict,
        )
    say(table)
    say("better: adjusted p below 0.05 and an interval without zero, for images like these")
    _written(place, "compare.json")


def _scores(rows: Sequence[Row], title: str) -> Table:
    table = Table(title=title)
    for column in ("features", "task", "metric", "value", "95 % interval", "images", "chance"):
        table.add_column(column, justify="left" if column in ("features", "task", "metric") else "right")
    before = None
    for row in rows:
        if before not in (None, row["task"]):
            table.add_section()
        before, unit = row["task"], row["unit"]
        low, high = row["interval"]
        spread = f" ± {number(row['seeds_std'], unit)}" if "seeds_std" in row else ""
        table.add_row(
            row["features"],
            row["task"],
            row["metric"] + ("" if row["higher_is_better"] else " ↓"),
            f"{number(row['value'], unit)}{spread} {unit}".rstrip(),
            f"{number(low, unit)} – {number(high, unit)}",
            f"{row['samples']:,}",
            "" if row["chance"] is None else number(row["chance"], unit),
        )
    return table


def _written(place: Path | None, name: str) -> None:
    if place is not None:
        terminal().print(f"written to {place if place.suffix == '.json' else place / name}")
