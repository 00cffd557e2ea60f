"""`nexus compare`."""

import re
from pathlib import Path
from typing import Annotated

from nexus.cli.layout import RESULT, WHAT
from nexus.cli.options import (
    ENCODERS,
    BatchSize,
    Cache,
    Data,
    Device,
    Encoder,
    Limit,
    Overwrite,
    Precision,
    Seeds,
    Size,
    Tasks,
    TaskSettings,
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
    words: TaskSettings = None,
    task: Tasks = "knn,linear",
    encoder: Encoder = "teacher",
    size: Size = None,
    limit: Limit = None,
    cache: Cache = None,
    seeds: Seeds = 1,
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
