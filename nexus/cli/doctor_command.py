"""`nexus doctor`: how a run is, in a table and a sentence."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nexus.cli.layout import LENGTH, RESULT, WHAT
from nexus.cli.options import option

if TYPE_CHECKING:
    from nexus.checkup import Examination

HEALTHY, ILL = 0, 1
"""Exit codes of `nexus doctor`; 2 as everywhere for what cannot be read."""


def doctor(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN",
            help="run folder, or another tool's log",
            rich_help_panel=WHAT,
            show_default=False,
        ),
    ],
    look: Annotated[bool, option("look at the saved model's features too", "--look", group=LENGTH)] = False,
    prototypes: Annotated[
        int | None,
        option("K of another tool's run, else guessed", group=LENGTH, metavar="N", least=2),
    ] = None,
    out: Annotated[
        Path | None,
        option("folder of doctor.json and .png (RUN)", group=RESULT, metavar="FOLDER"),
    ] = None,
) -> None:
    """Say whether a run is healthy, and if not, why."""
    from nexus.checkup import doctor as examine
    from nexus.log import set_up

    set_up()
    examination = examine(run, out=out, prototypes=prototypes, look=look)
    show(examination)
    raise typer.Exit(ILL if examination.ill else HEALTHY)


def show(found: "Examination") -> None:
    """The table of vital signs, the best checkpoint, the verdict."""
    from rich.table import Table

    from nexus.cli.show import terminal

    course, say = found.course, terminal().print
    steps = f"{course.step:,} of {course.total:,}" if course.total else f"{course.step:,}"
    table = Table(title=f"{found.log} ({course.tool}), step {steps}")
    for column in ("vital sign", "first", "now", "ill", "normally"):
        table.add_column(column, justify="left" if column in ("vital sign", "normally") else "right")
    for vital in found.vitals:
        sign, percent = vital.sign, vital.sign.percent
        limits = [f"< {_text(sign.low, percent)}"] if sign.low is not None else []
        limits += [f"> {_text(sign.high, percent)}"] if sign.high is not None else []
        mark = " !" if vital.ill else ""
        now = _text(vital.last, percent) + mark
        table.add_row(
            vital.sign.title, _text(vital.first, percent), now, ", ".join(limits), vital.sign.normal
        )
    say(table)
    for note in found.notes:
        say(f"note: {note}")
    if found.best is not None:
        best = found.best
        by = f"{best.key} {best.value:.3g}, now {best.last:.3g}"
        say(f"best checkpoint{'' if best.key == 'knn' else ' without labels'}: step {best.step:,} ({by})")
    for finding in found.diagnosis.findings[1:]:
        say(f"also {finding.sentence}")
    say(("ill: " if found.ill else "healthy: ") + found.diagnosis.sentence)
    say(f"written: {', '.join(str(file) for file in found.files)}")


def _text(value: float, percent: bool) -> str:
    return f"{value:.1%}" if percent else f"{value:.3g}"
