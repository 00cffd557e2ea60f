"""`nexus plan`: what a run will be and take, before it is run."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from nexus.cli.layout import LENGTH, MACHINE, RESULT, WHAT


def _option(help: str, *names: str, group: str, metavar: str | None = None) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=group, metavar=metavar, show_default=False)


def plan(
    data: Annotated[str, _option("folder, list, .tar, .zip, ...", group=WHAT, metavar="SOURCE")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="section.key=value",
            help="any setting, as for nexus train",
            rich_help_panel=LENGTH,
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None, _option("such as vit_small_patch14_reg4", group=WHAT, metavar="NAME")
    ] = None,
    init: Annotated[
        str | None, _option("run folder or weights to start from", group=WHAT, metavar="MODEL")
    ] = None,
    recipe: Annotated[
        str | None, _option("settings by name or .yaml path", group=LENGTH, metavar="NAME")
    ] = None,
    config: Annotated[
        Path | None, _option("config.yaml of a run to repeat", group=LENGTH, metavar="FILE")
    ] = None,
    budgets: Annotated[str, _option("15min,1h,8h (default)", group=LENGTH, metavar="TIMES")] = "15min,1h,8h",
    seconds: Annotated[float, _option("to try steps for (8)", group=LENGTH, metavar="N")] = 8.0,
    device: Annotated[
        str | None, _option("auto (default), cpu, cuda, cuda:1, mps", group=MACHINE, metavar="NAME")
    ] = None,
    out: Annotated[Path | None, _option("also write a .json", group=RESULT, metavar="FILE")] = None,
    overwrite: Annotated[bool, _option("replace what --out holds", "--overwrite", group=RESULT)] = False,
) -> None:
    """Say what a run will be and take; try a few steps."""
    from nexus import checkpoint
    from nexus.cli.show_plan import plan_tables
    from nexus.errors import RunError
    from nexus.log import set_up
    from nexus.training.planning import plan as make_plan

    if out is not None and out.exists() and not overwrite:
        raise RunError(f"{out} exists; choose another --out, or replace it with --overwrite")
    set_up()
    words = [*(overrides or []), *([f"compute.device={device}"] if device else [])]
    names = [name.strip() for name in budgets.split(",") if name.strip()]
    found = make_plan(
        data,
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
        checkpoint.write_atomic(out, json.dumps(found.as_json(), indent=1))
        typer.echo(f"written to {out}")
