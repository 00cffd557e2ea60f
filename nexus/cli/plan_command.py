"""`nexus plan`: what a run will be and take, before it is run."""

from pathlib import Path
from typing import Annotated

import typer

from nexus.cli.layout import LENGTH, RESULT
from nexus.cli.options import (
    Architecture,
    ConfigFile,
    Data,
    Init,
    Overwrite,
    Recipe,
    SomeDevice,
    option,
    with_more_sources,
)


def plan(
    data: Data,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="section.key=value",
            help="any setting, as for nexus train",
            rich_help_panel=LENGTH,
            show_default=False,
        ),
    ] = None,
    model: Architecture = None,
    init: Init = None,
    recipe: Recipe = None,
    config: ConfigFile = None,
    budgets: Annotated[str, option("15min,1h,8h (default)", group=LENGTH, metavar="TIMES")] = "15min,1h,8h",
    seconds: Annotated[float, option("to try steps for (8)", group=LENGTH, metavar="N")] = 8.0,
    device: SomeDevice = None,
    out: Annotated[Path | None, option("also write a .json", group=RESULT, metavar="FILE")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Say what a run will be and take; try a few steps."""
    from nexus.cli.show_plan import plan_tables
    from nexus.errors import RunError
    from nexus.log import set_up
    from nexus.records import write_record
    from nexus.training.planning import plan as make_plan

    if out is not None and out.exists() and not overwrite:
        raise RunError(f"{out} exists; choose another --out, or replace it with --overwrite")
    set_up()
    sources, settings = with_more_sources(data, overrides)
    words = [*settings, *([f"compute.device={device}"] if device else [])]
    names = [name.strip() for name in budgets.split(",") if name.strip()]
    found = make_plan(
        sources or data,
        model=model,
        recipe=recipe,
        config=config,
        init=init,
        overrides=words,
        budgets=names,
        seconds=seconds,
    )
    plan_tables(found)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_record(out, found.as_json())
        typer.echo(f"written to {out}")
