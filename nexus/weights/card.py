"""The model card of a run: README.md beside model.safetensors, in the form that model hubs read.

Every sentence comes from a file of the run: `config.json` and `config.yaml` say how it was trained, `evals/`
what was measured. What was not measured is said to be so.
"""

import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from nexus import checkpoint
from nexus.config import read_yaml
from nexus.errors import RunError, WeightsError
from nexus.figures import quantity
from nexus.weights.download import sha256_of
from nexus.weights.infer import architecture_name
from nexus.weights.loading import LoadReport, read_report
from nexus.weights.source import FILES
from nexus.weights.writing import LICENCE

MARK = "<!-- Written by `nexus card` from the files of the run; it writes over this file again. -->"

_SPDX = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]{1,40}")


def write_card(run: str | Path, out: str | Path | None = None, *, overwrite: bool = False) -> Path:
    """Write the card of the run folder `run` to `out`, by default `run/README.md`; returns the path.

    A card that this wrote earlier is replaced; any other file only with `overwrite`. Raises `RunError` where
    a file is in the way or cannot be written, `WeightsError` where there is no run with a backbone.
    """
    target = Path(out).expanduser() if out is not None else Path(run).expanduser() / "README.md"
    text = model_card(run)
    try:
        if target.is_dir():
            target /= "README.md"
        if target.exists() and not overwrite and not is_card(target):
            raise RunError(
                f"{target} exists and is no card; choose another --out, or replace it: --overwrite"
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.write_atomic(target, text)
    except OSError as error:
        raise RunError(
            f"the card cannot be written to {target}: {error.strerror or error}; free space, mend the "
            "permissions, or choose another --out"
        ) from None
    return target


def is_card(path: Path) -> bool:
    """Whether a file is a card that nexus wrote."""
    return path.is_file() and MARK in path.read_text(encoding="utf-8", errors="replace")


def model_card(run: str | Path) -> str:
    """The card of a run folder as Markdown."""
    folder = Path(run).expanduser()
    if not (folder / "config.yaml").is_file():
        raise WeightsError(
            f"{folder} is no run folder: there is no config.yaml in it; pass the --out of `nexus train`"
        )
    report = read_report(folder)
    settings = read_yaml(folder / "config.yaml")
    provenance = report.described.get("provenance") or {}
    parts = (
        _front_matter(report),
        MARK,
        _introduction(folder, report, provenance),
        _training(settings, provenance),
        _results(folder, provenance),
        _input(report),
        _loading(folder),
        _licence(report),
        _limits(folder, settings, provenance),
    )
    return "\n\n".join(parts) + "\n"


# -- parts ------------------------------------------------------------------------------------------


def _front_matter(report: LoadReport) -> str:
    licence = str(report.described.get("licence", LICENCE))
    known = licence.lower() if _SPDX.fullmatch(licence) else "unknown" if licence == LICENCE else "other"
    tags = ("dinov2", "self-supervised", "vision-transformer", "feature-extraction")
    lines = ["---", f"license: {known}", "pipeline_tag: image-feature-extraction", "tags:"]
    return "\n".join([*lines, *(f"- {tag}" for tag in tags), "---"])


def _introduction(folder: Path, report: LoadReport, provenance: dict[str, Any]) -> str:
    config = report.config
    file = folder / FILES["teacher"]
    side = config.img_size // config.patch_size
    facts = {
        "architecture": architecture_name(config),
        "parameters": f"{report.parameters:,}",
        "patch": f"{config.patch_size} × {config.patch_size} pixels",
        "position table": f"{side} × {side}, for {config.img_size} px; other sizes are interpolated",
        "registers": config.num_register_tokens or "none",
        "width, depth, heads": f"{config.embed_dim}, {config.depth}, {config.num_heads}",
        "feed-forward": config.ffn_layer,
        "stored as": report.dtype,
        "sha256 of the file": f"`{sha256_of(file)}`",
        "written": f"{provenance.get('date', 'not said')}, by nexus {provenance.get('nexus', '')}",
    }
    return (
        f"# {architecture_name(config)}, trained on {_inline(provenance.get('data', 'data not said'))}\n\n"
        "A vision transformer for frozen features: the averaged teacher of a self-supervised training with "
        f"DINOv2, which used no labels.\n\n{_table(('', ''), facts.items())}"
    )


def _training(settings: dict[str, Any], provenance: dict[str, Any]) -> str:
    schedule, crops = settings.get("schedule", {}), settings.get("crops", {})
    objective, optim, compute = (settings.get(key, {}) for key in ("objective", "optim", "compute"))
    step, steps = provenance.get("step"), schedule.get("steps")
    images, batch = provenance.get("images"), schedule.get("batch_size")
    seen = f"{step * batch / images:,.1f} passes over the images" if step and batch and images else "not said"
    start = settings.get("model", {}).get("init")
    cropped = [
        f"{crops.get(f'{kind}_size')} px (area {_span(crops.get(f'{kind}_scale'))})" for kind in _CROPS
    ]
    facts = {
        "images": f"{images:,}" if isinstance(images, int) else "not said",
        "data": _inline(provenance.get("data", "not said")),
        "start": f"the weights `{start}`" if start else "random weights",
        "steps": f"{step} of {steps}" + ("" if step == steps else ": **the training is not finished**"),
        "batch": f"{batch} images; {seen}",
        "crops": f"2 of {cropped[0]} and {crops.get('local_number')} of {cropped[1]}",
        "augmentation": ", ".join(f"{key} {crops[key]}" for key in _AUGMENTATION if key in crops),
        "objective": ", ".join(f"{key} {objective[key]}" for key in _OBJECTIVE if key in objective),
        "optimizer": ", ".join(f"{key} {optim[key]}" for key in _OPTIMIZER if key in optim),
        "precision": f"{compute.get('precision')} on {compute.get('device')}",
        "seed": settings.get("seed"),
    }
    return (
        f"## How it was trained\n\n{_table(('', ''), facts.items())}\n\n"
        "Every setting is in `config.yaml`; with `--config` it repeats the training."
    )


_CROPS = ("global", "local")
_AUGMENTATION = (
    *("flip", "vertical_flip", "jitter", "grayscale", "blur_global1", "blur_global2", "blur_local"),
    "solarize_global2",
)
_OBJECTIVE = ("dino_weight", "ibot_weight", "koleo_weight", "centering", "out_dim")
_OPTIMIZER = ("optimizer", "lr", "weight_decay", "weight_decay_end", "warmup_steps", "layer_decay")


def _results(folder: Path, provenance: dict[str, Any]) -> str:
    rows = [*_online(folder, provenance.get("step")), *_evaluations(folder)]
    if not rows:
        text = (
            "Nothing was measured, so nothing is claimed. `nexus eval --data LABELLED --model RUN` measures, "
            "and `nexus card RUN` then writes it here."
        )
    else:
        head = ("data", "features", "task", "metric", "value", "95 % interval", "images", "chance", "of")
        text = _table(head, rows)
        text += "\n\nMeasured with frozen features on the images named, and not beyond them."
    return f"## Results\n\n{text}"


def _input(report: LoadReport) -> str:
    config = report.config
    mean, std = (
        report.described.get("normalization", {}).get(key, "not said; ImageNet's is taken")
        for key in ("mean", "std")
    )
    return (
        f"## Input\n\n{config.in_chans} channels with values 0..1{_scale(report)}, then normalised: mean "
        f"{mean}, standard deviation {std}. Height and width are multiples of {config.patch_size}."
    )


def _scale(report: LoadReport) -> str:
    """What became 0 and 1, for a model of stored channels."""
    if report.look.channels == "rgb":
        return ""
    span = report.look.value_range
    how = "by their type" if span is None else f"from {span[0]:g}..{span[1]:g}, clipped"
    return f" (the stored channels, scaled {how})"


def _loading(folder: Path) -> str:
    return f"""## How to load it

```python
import nexus

model = nexus.load({str(folder.name)!r})  # the folder of this file
features = nexus.embed(data="IMAGES", model={str(folder.name)!r})  # .cls, .mean_patch, .paths
```

Names and shapes of the tensors in `model.safetensors` are those of the official DINOv2 release, so the model
classes of that release load it strictly when they are built with the dimensions above. For transformers and
timm, `nexus convert` writes a folder or file of theirs and compares the outputs."""


def _licence(report: LoadReport) -> str:
    licence = report.described.get("licence", LICENCE)
    said = "The file states no licence" if licence == LICENCE else f"The file states: {licence}"
    return (
        f"## Licence\n\n{said}. nexus claims no rights in weights that are trained with it; whoever trained "
        "them decides. Nothing here says under which terms the training images may be used."
    )


def _limits(folder: Path, settings: dict[str, Any], provenance: dict[str, Any]) -> str:
    images = provenance.get("images")
    robust = any(task.startswith("robustness") for _, _, task, *_ in _evaluations(folder))
    limits = [
        "The features reflect the images that it was trained on"
        + (f" ({images:,} of them)" if isinstance(images, int) else "")
        + "; how they do on others was "
        + ("measured only as far as the table above goes." if _has_results(folder) else "not measured."),
        f"Fairness{'' if robust else ', robustness'} and leakage of training images were not measured.",
        "It gives features, no labels: a classifier, a search or a clustering has to be built on them.",
    ]
    if provenance.get("step") != settings.get("schedule", {}).get("steps"):
        limits.insert(0, "The training is not finished.")
    return "## Limits\n\n" + "\n".join(f"* {limit}" for limit in limits)


# -- what was measured ------------------------------------------------------------------------------


def _has_results(folder: Path) -> bool:
    return any(True for _ in (*_online(folder, None), *_evaluations(folder)))


def _online(folder: Path, step: int | None) -> Iterator[tuple[str, ...]]:
    """The last evaluation of the training itself."""
    files = sorted((folder / "evals").glob("step_*.json"))
    result = (_json(files[-1]) if files else None) or {}
    of = "these weights" if result.get("step") == step else f"step {result.get('step')}"
    for task, found in result.items():
        if score := _score(found):
            yield ("labelled part, while training", "teacher", _inline(task), *score, of)


def _evaluations(folder: Path) -> Iterator[tuple[str, ...]]:
    """The tables that `nexus eval` left in the run; a file older than the weights is of earlier ones."""
    written = (folder / FILES["teacher"]).stat().st_mtime
    for file in sorted((*(folder / "evals").glob("*.json"), *folder.glob("eval*.json"))):
        result = _json(file)
        if not result or not isinstance(result.get("table"), list):
            continue
        same = Path(str(result.get("model"))).name in (folder.name, FILES["teacher"])
        of = "these weights" if file.stat().st_mtime >= written else "earlier weights of this run"
        of = of if same else f"another model: {_inline(result.get('model'))}"
        for row in result["table"]:
            if score := _score(row):
                data, features, task = result.get("data"), row.get("features"), row.get("task")
                yield (_inline(data), _inline(features), _inline(task), *score, of)


def _score(row: Any) -> tuple[str, ...] | None:
    """Metric, value, interval, samples and chance; `None` for what is no row or has no value."""
    try:
        (low, high), read = row["interval"], partial(quantity, unit=_inline(row["unit"]), digits=".3g")
        arrow = "" if row["higher_is_better"] else " (lower is better)"
        value, spread = read(row["value"]), " – ".join(map(read, (low, high)))
        chance = "" if row["chance"] is None else read(row["chance"])
        return f"{_inline(row['metric'])}{arrow}", value, spread, f"{row['samples']:,}", chance
    except (KeyError, TypeError, ValueError):
        return None


def _json(path: Path) -> dict[str, Any] | None:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return values if isinstance(values, dict) else None


# -- Markdown ---------------------------------------------------------------------------------------


def _table(head: tuple[str, ...], rows: Any) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def _inline(value: object) -> str:
    """A path or sentence of a user: markup in it is shown, not obeyed."""
    return re.sub(r"([\\`*_<>\[\]#])", r"\\\1", " ".join(str(value).split()))


def _span(pair: Any) -> str:
    return f"{pair[0]:g} to {pair[1]:g}" if isinstance(pair, list | tuple) and len(pair) == 2 else "not said"
