"""`nexus data ...`: looking through a data set, measuring, packing, showing its crops."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from nexus.cli.layout import LENGTH, MACHINE, RESULT, WHAT, GroupedCommand

data_app = typer.Typer(
    name="data",
    help="Scan, measure, pack or show a data set.",
    rich_markup_mode=None,
    no_args_is_help=True,
)


def _option(help: str, *names: str, group: str, metavar: str | None = None, least: int | None = None) -> Any:
    return typer.Option(
        *names, help=help, rich_help_panel=group, metavar=metavar, show_default=False, min=least
    )


Source = Annotated[
    str,
    typer.Argument(
        metavar="DATA", help="folder, list, .tar, .zip, ...", rich_help_panel=WHAT, show_default=False
    ),
]
Native = Annotated[str, _option("rgb (default) or native", group=WHAT, metavar="NAME")]
Threads = Annotated[int | None, _option("threads (one a core)", group=MACHINE, metavar="N", least=0)]
Overwrite = Annotated[bool, _option("replace what --out holds", "--overwrite", group=RESULT)]


@data_app.command(cls=GroupedCommand)
def scan(
    data: Source,
    limit: Annotated[int | None, _option("only the first N", group=WHAT, metavar="N", least=1)] = None,
    out: Annotated[Path | None, _option("also write a .json", group=RESULT, metavar="FILE")] = None,
    overwrite: Overwrite = False,
    workers: Threads = None,
) -> None:
    """Open every image: sizes, depths, faults, twins."""
    from nexus.cli.show import progress_bar, survey_table
    from nexus.data.preparation import survey

    _free(out, overwrite)
    with progress_bar("scanning") as progress:
        found = survey(data, limit=limit, workers=workers, progress=progress)
    survey_table(found)
    _write(out, found.as_json())


@data_app.command(cls=GroupedCommand)
def stats(
    data: Source,
    channels: Native = "rgb",
    out: Annotated[Path | None, _option("also write a .json", group=RESULT, metavar="FILE")] = None,
    overwrite: Overwrite = False,
    workers: Threads = None,
) -> None:
    """Mean and deviation of each channel, exactly."""
    from nexus.cli.show import measured_lines, progress_bar
    from nexus.data.preparation import measure

    _free(out, overwrite)
    with progress_bar("measuring") as progress:
        found = measure(data, _channels(channels), workers=workers, progress=progress)
    measured_lines(found)
    _write(out, found.as_json())


@data_app.command(cls=GroupedCommand)
def pack(
    data: Source,
    out: Annotated[Path, _option("folder of the shards", group=RESULT, metavar="FOLDER")],
    size: Annotated[int, _option("longest shorter side (512); 0: all", group=LENGTH, metavar="PIXELS")] = 512,
    quality: Annotated[int, _option("of JPEG (95)", group=LENGTH, metavar="N")] = 95,
    shard_size: Annotated[str, _option("of a shard (256MB)", group=LENGTH, metavar="SIZE")] = "256MB",
    workers: Threads = None,
) -> None:
    """Write tar shards, images resized once; resumable."""
    from nexus.cli.show import packed_lines, progress_bar
    from nexus.data.preparation import pack as run_pack

    with progress_bar("packing") as progress:
        packed = run_pack(
            data,
            out,
            size=size or None,
            quality=quality,
            shard_size=shard_size,
            workers=workers,
            progress=progress,
        )
    packed_lines(packed)


@data_app.command(cls=GroupedCommand)
def crops(
    data: Source,
    out: Annotated[Path, _option(".png or .html", group=RESULT, metavar="FILE")],
    crops: Annotated[str, _option("official, microscopy, ...", group=LENGTH, metavar="PRESET")] = "official",
    images: Annotated[int, _option("how many images (4)", group=LENGTH, metavar="N")] = 4,
    patch: Annotated[int, _option("patch of the masks (14)", group=LENGTH, metavar="PIXELS", least=1)] = 14,
    seed: Annotated[int, _option("of crops and masks (0)", group=LENGTH, metavar="N", least=0)] = 0,
    channels: Native = "rgb",
    overwrite: Overwrite = False,
) -> None:
    """Draw what training sees of some images."""
    from nexus.data.preparation import write_sheet

    names = write_sheet(
        data,
        out,
        crops=crops,
        images=images,
        patch=patch,
        seed=seed,
        channels=_channels(channels),
        overwrite=overwrite,
    )
    typer.echo(f"{len(names)} image{'s' * (len(names) > 1)} → {out}")


def _channels(name: str) -> Any:
    from nexus.errors import choose

    return choose(name, {"rgb": "rgb", "native": "native"}, "channels")


def _free(out: Path | None, overwrite: bool) -> None:
    """Refuse a file in the way before the long work."""
    from nexus.errors import RunError

    if out is not None and out.exists() and not overwrite:
        raise RunError(f"{out} exists; choose another --out, or replace it with --overwrite")


def _write(out: Path | None, values: dict[str, Any]) -> None:
    from nexus.checkpoint import write_atomic
    from nexus.errors import RunError

    if out is None:
        return
    try:
        write_atomic(out, json.dumps(values, indent=1) + "\n")
    except OSError as error:
        raise RunError(
            f"{out} cannot be written: {error.strerror or error}; mend its folder, or choose another --out"
        ) from None
    typer.echo(f"written to {out}")
