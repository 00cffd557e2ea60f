"""`nexus compare`."""

import re
from pathlib import Path
from typing import Annotated

import typer

from nexus.cli.layout import LENGTH, MACHINE, RESULT, WHAT
from nexus.cli.options import (
    ENCODERS,
    BatchSize,
    Data,
    Device,
    Encoder,
    Overwrite,
    Precision,
    Size,
    Workers,
    option,
)
from nexus.errors import choose

_SETTING = re.compile(r"\w+\.[\w.]+=")


def compare(
    data: Data,
    models: Annotated[
        list[str], option("two or more, as after eval --model", "--models", group=WHAT, metavar="MODEL ...")
    ],
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="task.key=value",
            help="setting of a task, as in linear.epochs=5",
            rich_help_panel=LENGTH,
            show_default=False,
        ),
    ] = None,
    task: Annotated[
        str, option("such as knn,linear (default); docs/evaluation.md", group=WHAT, metavar="NAMES")
    ] = "knn,linear",
    encoder: Encoder = "teacher",
    size: Size = None,
    limit: Annotated[
        int | None, option("most images of each split", group=WHAT, metavar="N", least=1)
    ] = None,
    cache: Annotated[
        str | None, option("folder where features are kept, or off", group=MACHINE, metavar="DIR")
    ] = None,
    seeds: Annotated[int, option("trainings of each probe (1)", group=LENGTH, metavar="N", least=1)] = 1,
    device: Device = "auto",
    precision: Precision = "fp32",
    batch_size: BatchSize = 64,
    workers: Workers = 0,
    out: Annotated[
        Path | None, option("folder or .json file; default: none", group=RESULT, metavar="PATH")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Put models side by side; say what really differs."""
    from nexus.cli.show import progress_bar
    from nexus.cli.show_evals import comparison
    from nexus.evals.compare import compare as run_comparison
    from nexus.log import set_up

    set_up()
    more = [word for word in words or [] if not _SETTING.match(word)]
    with progress_bar("features") as progress:
        result = run_comparison(
            data,
            [part for text in (*models, *more) for part in _at_commas(text)],
            task,
            out=out,
            overwrite=overwrite,
            encoder=choose(encoder, ENCODERS, "encoder"),
            limit=limit,
            seeds=seeds,
            cache=cache,
            overrides=[word for word in words or [] if _SETTING.match(word)],
            size=size,
            device=device,
            precision=precision,
            batch_size=batch_size,
            workers=workers,
            progress=progress,
        )
    comparison(result, out)


def _at_commas(text: str) -> list[str]:
    """The models in one word; a path that exists may have commas."""
    return [text] if Path(text).exists() else [part.strip() for part in text.split(",") if part.strip()]
