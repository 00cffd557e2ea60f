"""The verbs: each parses, calls one function of the package, and shows the result."""

from pathlib import Path
from typing import Annotated

import typer

from nexus import __version__

app = typer.Typer(
    name="nexus",
    help="Self-supervised visual features from a folder of images (DINOv2).",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    epilog="Add --debug to any command to see the traceback of an error.",
)

Data = Annotated[str, typer.Option(help="Folder, glob, list, .tar, .zip, pack or synthetic:...")]
Model = Annotated[str, typer.Option(help="Architecture name, run folder or weight file.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps or auto.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[section.key=value ...]", help="Any setting.")
]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def nexus(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Self-supervised visual features from a folder of images (DINOv2)."""


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the run and its report.")] = Path("runs/demo"),
    steps: Annotated[int | None, typer.Option(help="Fewer or more steps than the recipe.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace an earlier demo.")] = False,
) -> None:
    """Train on the embedded photos in minutes on a CPU, prove learning, leave a report."""
    from nexus.cli.show import demo_table
    from nexus.demo import run_demo
    from nexus.log import set_up

    set_up()
    result = run_demo(out, steps=steps, overwrite=overwrite)
    demo_table(result)


@app.command()
def train(
    overrides: Overrides = None,
    data: Annotated[str | None, typer.Option(help="Images; labels are never needed.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder to create.")] = None,
    model: Annotated[str | None, typer.Option(help="Architecture, e.g. vit_small_patch14_reg4.")] = None,
    recipe: Annotated[str | None, typer.Option(help="Settings by name or .yaml path.")] = None,
    config: Annotated[Path | None, typer.Option(help="config.yaml of another run, to repeat it.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Run folder to go on with.")] = None,
    init: Annotated[str | None, typer.Option(help="Weights to start from.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps (schedule.steps).")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images a step (schedule.batch_size).")] = None,
    device: Device = "auto",
    precision: Annotated[str, typer.Option(help="fp32, bf16, fp16 or auto.")] = "auto",
    seed: Annotated[int | None, typer.Option(help="Seed of the whole run.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace an earlier run in --out.")] = False,
) -> None:
    """Pretrain a backbone on unlabelled images."""
    from nexus.cli.show import train_summary
    from nexus.log import set_up
    from nexus.training import train as run_training

    set_up()
    flags = {
        "schedule.steps": steps,
        "schedule.batch_size": batch_size,
        "compute.device": None if device == "auto" else device,
        "compute.precision": None if precision == "auto" else precision,
        "seed": seed,
    }
    assignments = [f"{key}={value}" for key, value in flags.items() if value is not None]
    result = run_training(
        data,
        out,
        model=model,
        recipe=recipe,
        config=config,
        resume=resume,
        init=init,
        overwrite=overwrite,
        overrides=[*assignments, *(overrides or [])],
    )
    raise typer.Exit(train_summary(result))


@app.command()
def embed(
    data: Data,
    model: Model,
    out: Annotated[Path, typer.Option(help="File to write: .parquet, .npy or .safetensors.")],
    size: Annotated[int | None, typer.Option(help="Side of the square input; default: the model's.")] = None,
    batch_size: Annotated[int, typer.Option(help="Images at once.")] = 64,
    workers: Annotated[int, typer.Option(help="Processes that read images.")] = 0,
    device: Device = "auto",
    precision: Annotated[str, typer.Option(help="fp32, bf16 or fp16.")] = "fp32",
    encoder: Annotated[str, typer.Option(help="teacher or student, of a run folder.")] = "teacher",
    patches: Annotated[bool, typer.Option(help="Write patch features too.")] = False,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing file.")] = False,
) -> None:
    """Write the features of every image to a file."""
    from nexus.cli.show import embed_summary, progress_bar
    from nexus.embedding import embed as run_embedding
    from nexus.log import set_up

    set_up()
    with progress_bar("embedding") as progress:
        features = run_embedding(
            data,
            model,
            out,
            size=size,
            batch_size=batch_size,
            workers=workers,
            device=device,
            precision=precision,
            encoder=encoder,
            patches=patches,
            overwrite=overwrite,
            progress=progress,
        )
    embed_summary(features, out)


@app.command("eval")
def evaluate(
    data: Data,
    model: Model,
    task: Annotated[str, typer.Option(help="Comma-separated: knn, linear.")] = "knn,linear",
    out: Annotated[Path | None, typer.Option(help="Folder or .json file for the result.")] = None,
    size: Annotated[int | None, typer.Option(help="Side of the square input; default: the model's.")] = None,
    device: Device = "auto",
    encoder: Annotated[str, typer.Option(help="teacher or student, of a run folder.")] = "teacher",
) -> None:
    """Measure frozen features on labelled images."""
    from nexus.cli.show import eval_table, progress_bar
    from nexus.evals import evaluate as run_evaluation
    from nexus.log import set_up

    set_up()
    tasks = [name.strip() for name in task.split(",") if name.strip()]
    with progress_bar("features") as progress:
        result = run_evaluation(
            data, model, tasks, out=out, size=size, device=device, encoder=encoder, progress=progress
        )
    eval_table(result)


@app.command()
def inspect(path: Annotated[str, typer.Argument(help="Weight file, run folder or data set.")]) -> None:
    """Say what a weight file, run folder or data set is."""
    from nexus.cli.show import inspection
    from nexus.weights import inspect as look

    inspection(look(path))
