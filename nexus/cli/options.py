"""Options that several commands share, spelt the same everywhere."""

from typing import Annotated, Any, Literal

import typer

from nexus.cli.layout import MACHINE, RESULT, WHAT

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
Overwrite = Annotated[bool, option("replace what --out holds", "--overwrite", group=RESULT)]
