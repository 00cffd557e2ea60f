"""Options that several commands share, spelt the same everywhere."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from nexus.cli.layout import LENGTH, MACHINE, RESULT, WHAT

ENCODERS: dict[str, Literal["teacher", "student"]] = {"teacher": "teacher", "student": "student"}


def option(help: str, *names: str, group: str, metavar: str | None = None, least: int | None = None) -> Any:
    """An option with one line of help, under the heading `group`."""
    return typer.Option(
        *names, help=help, rich_help_panel=group, metavar=metavar, show_default=False, min=least
    )


Data = Annotated[str, option("folder, list, .tar, .zip, ...", group=WHAT, metavar="SOURCE")]
Model = Annotated[str, option("run folder, weight file or name", group=WHAT, metavar="MODEL")]
Encoder = Annotated[str, option("teacher (default) or student", group=WHAT, metavar="NAME")]
Size = Annotated[int | None, option("side of the input; default: the model's", group=WHAT, metavar="PIXELS")]
Device = Annotated[str, option("auto (default), cpu, cuda, cuda:1, mps", group=MACHINE, metavar="NAME")]
Precision = Annotated[str, option("fp32 (default), bf16 or fp16", group=MACHINE, metavar="NAME")]
BatchSize = Annotated[int, option("images at once (64)", group=MACHINE, metavar="N")]
Workers = Annotated[int, option("processes that read images (0)", group=MACHINE, metavar="N")]
Architecture = Annotated[str | None, option("such as vit_small_patch14_reg4", group=WHAT, metavar="NAME")]
Init = Annotated[str | None, option("run folder or weights to start from", group=WHAT, metavar="MODEL")]
Recipe = Annotated[str | None, option("settings by name or .yaml path", group=LENGTH, metavar="NAME")]
ConfigFile = Annotated[Path | None, option("config.yaml of a run to repeat", group=LENGTH, metavar="FILE")]
SomeDevice = Annotated[
    str | None, option("auto (default), cpu, cuda, cuda:1, mps", group=MACHINE, metavar="NAME")
]
TaskSettings = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="task.key=value",
        help="setting of a task, as in linear.epochs=5",
        rich_help_panel=LENGTH,
        show_default=False,
    ),
]
Tasks = Annotated[
    str, option("such as knn,linear (default); docs/evaluation.md", group=WHAT, metavar="NAMES")
]
Limit = Annotated[int | None, option("most images of each split", group=WHAT, metavar="N", least=1)]
Cache = Annotated[str | None, option("folder where features are kept, or off", group=MACHINE, metavar="DIR")]
Seeds = Annotated[int, option("trainings of each probe (1)", group=LENGTH, metavar="N", least=1)]
Overwrite = Annotated[bool, option("replace what --out holds", "--overwrite", group=RESULT)]


def with_more_sources(data: str | None, words: list[str] | None) -> tuple[str | None, list[str]]:
    """`--data a:0.7 b:0.3`: the shell hands the second source over among the settings.

    Returns the whole data, and the settings that are left.
    """
    from nexus.data.datasets.address import has_weight

    words = words or []
    if data is None or not has_weight(data):
        return data, words
    more = [word for word in words if has_weight(word) and not re.match(r"\w+(\.\w+)*=", word)]
    return " ".join([data, *more]), [word for word in words if word not in more]
