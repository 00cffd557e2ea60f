"""The verbs: each parses, calls one function of the package, and shows the result."""

from pathlib import Path
from typing import Annotated, Any

import typer

from nexus import __version__
from nexus.cli.data_commands import data_app
from nexus.cli.doctor_command import doctor
from nexus.cli.eval_commands import compare
from nexus.cli.layout import LENGTH, MACHINE, RESULT, WHAT, GroupedCommand
from nexus.cli.options import ENCODERS as _ENCODERS
from nexus.cli.options import (
    Architecture,
    BatchSize,
    Cache,
    ConfigFile,
    Data,
    Device,
    Encoder,
    Init,
    Limit,
    Model,
    Overwrite,
    Precision,
    Recipe,
    Seeds,
    Size,
    SomeDevice,
    Tasks,
    TaskSettings,
    Workers,
    with_more_sources,
)
from nexus.cli.options import option as _option
from nexus.cli.plan_command import plan
from nexus.errors import ConfigError, choose

app = typer.Typer(
    name="nexus",
    help="Self-supervised visual features from a folder of images (DINOv2).",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    epilog="nexus VERB --help lists its options; --debug shows the traceback of an error.",
)


app.add_typer(data_app)
app.command(cls=GroupedCommand)(plan)
app.command(cls=GroupedCommand)(doctor)

Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="section.key=value",
        help="any setting, as in optim.lr=1e-3",
        rich_help_panel=LENGTH,
        show_default=False,
    ),
]


def _version(wanted: bool) -> bool:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit
    return wanted


@app.callback()
def nexus(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Self-supervised visual features from a folder of images (DINOv2)."""


@app.command(cls=GroupedCommand)
def demo(
    steps: Annotated[int | None, _option("other than the recipe's", group=LENGTH, metavar="N")] = None,
    out: Annotated[Path, _option("folder of the run (runs/demo)", group=RESULT, metavar="FOLDER")] = Path(
        "runs/demo"
    ),
    overwrite: Overwrite = False,
) -> None:
    """Train on embedded photos in minutes, report."""
    from nexus.cli.show import demo_table
    from nexus.demo import run_demo
    from nexus.log import set_up

    set_up()
    result = run_demo(out, steps=steps, overwrite=overwrite)
    demo_table(result)


@app.command(cls=GroupedCommand)
def train(
    overrides: Overrides = None,
    data: Annotated[
        str | None, _option("folder, list, .tar, .zip, ...; needs no labels", group=WHAT, metavar="SOURCE")
    ] = None,
    model: Architecture = None,
    init: Init = None,
    resume: Annotated[Path | None, _option("go on with this run", group=WHAT, metavar="FOLDER")] = None,
    steps: Annotated[int | None, _option("optimizer steps", group=LENGTH, metavar="N")] = None,
    batch_size: Annotated[int | None, _option("images a step", group=LENGTH, metavar="N")] = None,
    recipe: Recipe = None,
    config: ConfigFile = None,
    crops: Annotated[
        str | None, _option("official, microscopy, satellite, ...", group=LENGTH, metavar="PRESET")
    ] = None,
    seed: Annotated[int | None, _option("seed of the whole run (0)", group=LENGTH, metavar="N")] = None,
    device: SomeDevice = None,
    devices: Annotated[
        str | None, _option("auto (default), or how many; one process each", group=MACHINE, metavar="N")
    ] = None,
    precision: Annotated[
        str | None, _option("auto (default), fp32, bf16 or fp16", group=MACHINE, metavar="NAME")
    ] = None,
    out: Annotated[Path | None, _option("folder of the new run", group=RESULT, metavar="FOLDER")] = None,
    profile: Annotated[bool, _option("record where a few steps' time goes", group=RESULT)] = False,
    overwrite: Overwrite = False,
) -> None:
    """Pretrain a backbone on unlabelled images."""
    from nexus.cli.show import train_summary
    from nexus.log import set_up
    from nexus.training import train as run_training

    set_up()
    flags = {
        "schedule.steps": steps,
        "schedule.batch_size": batch_size,
        "compute.device": device,
        "compute.devices": devices,
        "compute.precision": precision,
        "seed": seed,
        "crops.preset": crops,
        "log.profile": profile or None,
    }
    assignments = [f"{key}={value}" for key, value in flags.items() if value is not None]
    data, settings = with_more_sources(data, overrides)
    result = run_training(
        data,
        out,
        model=model,
        recipe=recipe,
        config=config,
        resume=resume,
        init=init,
        overwrite=overwrite,
        overrides=[*assignments, *settings],
    )
    raise typer.Exit(train_summary(result))


@app.command(cls=GroupedCommand)
def embed(
    data: Data,
    model: Model,
    out: Annotated[Path, _option(".parquet, .npy or .safetensors", group=RESULT, metavar="FILE")],
    encoder: Encoder = "teacher",
    size: Annotated[
        str | None, _option("N, HEIGHTxWIDTH or native; default: the model's", group=WHAT, metavar="PIXELS")
    ] = None,
    fit: Annotated[
        str, _option("resize (default), pad, crop, strict", group=WHAT, metavar="NAME")
    ] = "resize",
    features: Annotated[
        str, _option("of cls,mean_patch,patches,registers", group=RESULT, metavar="NAMES")
    ] = "cls,mean_patch",
    layers: Annotated[
        str, _option("such as 3,6,9,12; -1 (default): last", group=RESULT, metavar="NUMBERS")
    ] = "-1",
    dtype: Annotated[str, _option("float32 (default) or float16", group=RESULT, metavar="NAME")] = "float32",
    device: Device = "auto",
    precision: Precision = "fp32",
    batch_size: BatchSize = 64,
    workers: Workers = 0,
    overwrite: Overwrite = False,
) -> None:
    """Write the features of every image to a file."""
    from nexus.cli.show import embed_summary, progress_bar
    from nexus.embedding import embed as run_embedding
    from nexus.log import set_up

    set_up()
    with progress_bar("embedding") as progress:
        written = run_embedding(
            data,
            model,
            out,
            features=_words(features),
            layers=[_whole_number(word, "layers") for word in _words(layers)],
            dtype=dtype,
            size=size,
            fit=fit,
            batch_size=batch_size,
            workers=workers,
            device=device,
            precision=precision,
            encoder=choose(encoder, _ENCODERS, "encoder"),
            overwrite=overwrite,
            progress=progress,
        )
    embed_summary(written)


def _words(text: str) -> list[str]:
    """The parts of a list with commas."""
    return [word.strip() for word in text.split(",") if word.strip()]


def _whole_number(word: str, option: str) -> int:
    try:
        return int(word)
    except ValueError:
        raise ConfigError(f"--{option}: {word!r} is no whole number; write them as in 3,6,9,12") from None


@app.command("eval", cls=GroupedCommand)
def evaluate(
    data: Data,
    model: Annotated[
        str | None, _option("run folder, weight file or name", group=WHAT, metavar="MODEL")
    ] = None,
    overrides: TaskSettings = None,
    task: Tasks = "knn,linear",
    reproduce: Annotated[
        str | None, _option("released model: published figures beside ours", group=WHAT, metavar="NAME")
    ] = None,
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
        Path | None, _option("folder or .json file (RUN/evals)", group=RESULT, metavar="PATH")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Measure frozen features on labelled images."""
    from nexus.cli.show import progress_bar
    from nexus.cli.show_evals import eval_table
    from nexus.evals import evaluate as run_evaluation
    from nexus.evals.evaluation import place_in_run
    from nexus.log import set_up

    set_up()
    machine = {"device": device, "precision": precision, "batch_size": batch_size, "workers": workers}
    seen: dict[str, Any] = {"size": size, **machine}
    if reproduce is not None:
        from nexus.cli import reproducing

        more = {"limit": limit, "cache": cache, "seeds": seeds, "overrides": overrides}
        reproducing.run(reproduce, data, out, model=model, overwrite=overwrite, **more, **seen)
        return
    if model is None:
        raise ConfigError("--model is missing: a run folder, a weight file or a name; or --reproduce NAME")
    place = place_in_run(model) if out is None else out
    with progress_bar("features") as progress:
        result = run_evaluation(
            data,
            model,
            task,
            out=place,
            html=True,
            overwrite=overwrite or out is None,
            encoder=choose(encoder, _ENCODERS, "encoder"),
            limit=limit,
            seeds=seeds,
            cache=cache,
            overrides=overrides or [],
            progress=progress,
            **seen,
        )
    eval_table(result, place)


app.command(cls=GroupedCommand)(compare)


@app.command(cls=GroupedCommand)
def convert(
    input: Annotated[str, _option("run folder, weight file or name", group=WHAT, metavar="MODEL")],
    to: Annotated[str, _option("hub, hf, timm or nexus", group=WHAT, metavar="TARGET")],
    out: Annotated[Path, _option("file (hub, timm) or folder (hf, nexus)", group=RESULT, metavar="PATH")],
    encoder: Encoder = "teacher",
    size: Annotated[
        int | None, _option("resize positions to this side first", group=WHAT, metavar="PIXELS")
    ] = None,
    images: Annotated[
        str | None, _option("pictures to compare on; some come with nexus", group=WHAT, metavar="SOURCE")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a backbone for another library, with proof."""
    from nexus.cli.show import conversion
    from nexus.log import set_up
    from nexus.weights import convert as run_conversion

    set_up()
    conversion(
        run_conversion(
            input,
            to,
            out,
            images=images,
            size=size,
            encoder=choose(encoder, _ENCODERS, "encoder"),
            overwrite=overwrite,
        )
    )


@app.command(cls=GroupedCommand)
def export(
    model: Model,
    format: Annotated[str, _option("onnx, torch_export or torchscript", group=WHAT, metavar="NAME")],
    out: Annotated[Path, _option(".onnx, .pt2 or .pt", group=RESULT, metavar="FILE")],
    outputs: Annotated[
        str, _option("cls,patches (default), layer:8, ...", group=WHAT, metavar="NAMES")
    ] = "cls,patches",
    encoder: Encoder = "teacher",
    size: Annotated[str | None, _option("fixed size of the images", group=LENGTH, metavar="H,W")] = None,
    dynamic: Annotated[
        str | None, _option("all (default), batch, hw or none", group=LENGTH, metavar="NAME")
    ] = None,
    precision: Annotated[str, _option("fp32 (default) or fp16", group=LENGTH, metavar="NAME")] = "fp32",
    opset: Annotated[int | None, _option("of ONNX (20)", group=LENGTH, metavar="N")] = None,
    normalize: Annotated[
        str | None, _option("take pixels 0..255: uint8 or float", group=LENGTH, metavar="NAME")
    ] = None,
    images: Annotated[
        str | None, _option("to compare on; default: packaged photos", group=RESULT, metavar="SOURCE")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a file for another runtime, compared there."""
    from nexus.cli.show import export_table
    from nexus.errors import ExportError
    from nexus.exporting import export as run_export
    from nexus.log import set_up

    set_up()
    try:
        result = run_export(
            model,
            out,
            format=format,
            size=size,
            dynamic=dynamic,
            precision=precision,
            outputs=outputs,
            opset=opset,
            normalize=normalize,
            images=images,
            encoder=choose(encoder, _ENCODERS, "encoder"),
            overwrite=overwrite,
        )
    except ExportError as error:
        export_table(error.result)
        raise
    export_table(result)


@app.command(cls=GroupedCommand)
def inspect(
    path: Annotated[
        str,
        typer.Argument(
            metavar="PATH",
            help="weight file, run folder or data set",
            rich_help_panel=WHAT,
            show_default=False,
        ),
    ],
    as_json: Annotated[bool, _option("one JSON object, for programs", "--json", group=RESULT)] = False,
) -> None:
    """Say what a file, run folder or data set is."""
    from nexus.cli.show import inspection
    from nexus.weights import inspect as look

    inspection(look(path), as_json=as_json)


@app.command(cls=GroupedCommand)
def card(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="run folder", rich_help_panel=WHAT, show_default=False)
    ],
    out: Annotated[Path | None, _option("file (RUN/README.md)", group=RESULT, metavar="FILE")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write the model card of a run."""
    from nexus.weights import write_card

    typer.echo(f"card: {write_card(run, out, overwrite=overwrite)}")
