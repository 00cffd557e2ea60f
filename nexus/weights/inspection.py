"""What is this? A weight file, a run folder, an architecture or a data set, in plain facts."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from nexus import checkpoint
from nexus.config import read_yaml
from nexus.errors import ConfigError, WeightsError
from nexus.models.vision import ViTConfig, architecture, build_backbone
from nexus.weights.infer import architecture_name
from nexus.weights.loading import LoadReport, read_report
from nexus.weights.read import ENDINGS, read_config
from nexus.weights.source import FILES, is_hub_name

Facts = dict[str, Any]


def inspect(path: str | Path) -> Facts:
    """Facts about `path`, most important first; `kind` says what it is.

    | kind            | for                                            |
    |-----------------|------------------------------------------------|
    | `weights`       | a weight file, or a hub name                   |
    | `run folder`    | what `nexus train` left                        |
    | `architecture`  | the name of one                                |
    | `data set`      | everything that `--data` takes                 |

    A weight file that cannot be read is described as far as it is understood, with `problem` saying why not.
    Raises `NexusError` when it is none of these.
    """
    where = Path(path).expanduser()
    if where.is_dir() and (where / "config.yaml").is_file():
        return _run(where)
    if where.is_dir():
        backbone = any((where / name).is_file() for name in FILES.values())
        return _weights(path) if backbone or "model_type" in (_config(where) or {}) else _data(path)
    if where.suffix.lower() in ENDINGS:
        return _weights(path)
    if where.exists():
        return _data(path)
    if is_hub_name(str(path)):
        return _weights(path)
    try:
        config = architecture(str(path))
    except ConfigError:
        return _data(path)
    return _architecture(str(path), config)


def inspect_sentence(facts: Mapping[str, Any]) -> str:
    """The facts of `inspect` in one line."""
    if facts["kind"] == "data set":
        return f"{facts['path']}: data set, {facts['found']}"
    if "problem" in facts:
        return f"{facts['path']}: {facts['kind']}, cannot be used: {facts['problem']}"
    if facts["kind"] == "run folder":
        text = f"{facts['path']}: run folder, {facts['state']}"
        return f"{text}, {facts['model']['architecture']}" if "model" in facts else text
    trained = f", step {facts['step']}" if "step" in facts else ""
    return (
        f"{facts.get('path', facts['architecture'])}: {facts['kind']}, {facts['architecture']}, "
        f"{facts['parameters']:,} parameters, {facts['image_size']} px{trained}"
    )


def _weights(path: str | Path) -> Facts:
    try:
        report = read_report(path)
    except WeightsError as error:
        if not Path(path).expanduser().exists():
            raise
        return {"kind": "weights", "path": str(path), "problem": str(error)}
    return {"kind": "weights", "path": report.source, **_backbone(report)}


def _backbone(report: LoadReport) -> Facts:
    """What is known about a backbone."""
    config, described = report.config, report.described
    facts: Facts = {
        "architecture": architecture_name(config),
        "parameters": report.parameters,
        "patch_size": config.patch_size,
        "image_size": config.img_size,
        "registers": config.num_register_tokens,
        "width": config.embed_dim,
        "depth": config.depth,
        "heads": config.num_heads,
        "feed_forward": config.ffn_layer,
        "channels": config.in_chans,
        "tensors": report.tensors,
        "dtype": report.dtype,
        "layout": report.layout,
    }
    if report.dropped:
        facts["other_tensors"] = len(report.dropped)
    if not described:
        facts["written_by"] = "not said; architecture inferred from the shapes of the tensors"
        return facts
    provenance = described.get("provenance", {})
    if "step" in provenance:
        facts["step"] = provenance["step"]
    facts["normalization"] = described.get("normalization", {})
    facts["licence"] = described.get("licence", "not stated")
    facts["provenance"] = provenance
    return facts


def _architecture(name: str, config: ViTConfig) -> Facts:
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in build_backbone(config).parameters())
    facts = _backbone(LoadReport(name, config, 0, parameters, "", ""))
    for key in ("written_by", "tensors", "dtype", "layout"):
        del facts[key]
    return {"kind": "architecture", "path": name, **facts}


def _run(folder: Path) -> Facts:
    """State, last metrics, checkpoints and backbone of a run."""
    settings = read_yaml(folder / "config.yaml")
    schedule, source = settings.get("schedule"), settings.get("data")
    steps = schedule.get("steps") if isinstance(schedule, dict) else None
    saved = checkpoint.list_checkpoints(folder / "checkpoints")
    done = checkpoint.step_of(saved[-1]) if saved else 0
    state = f"finished, {done} steps" if done == steps else f"unfinished, saved at step {done} of {steps}"
    facts: Facts = {"kind": "run folder", "path": str(folder), "state": state, "step": done, "steps": steps}
    facts["data"] = source.get("source", "not stated") if isinstance(source, dict) else "not stated"
    facts["checkpoints"] = [path.name for path in saved]
    if last := _last_line(folder / "metrics.jsonl"):
        facts["last_metrics"] = last
    if (folder / FILES["teacher"]).is_file():
        model = _weights(folder)
        facts["model"] = {key: value for key, value in model.items() if key != "kind"}
    else:
        facts["model_file"] = "none yet; it is written with the first checkpoint"
    return facts


def _last_line(path: Path) -> Facts | None:
    """The last complete line of a metrics file."""
    if not path.is_file():
        return None
    for line in reversed(path.read_text(encoding="utf-8").splitlines()):
        try:
            return json.loads(line)
        except ValueError:  # the run was killed while it wrote this line
            continue
    return None


def _config(folder: Path) -> Mapping[str, Any] | None:
    try:
        return read_config(folder / "config.json")
    except WeightsError:
        return None


def _data(path: str | Path) -> Facts:
    from nexus.data.datasets import available_splits, open_dataset, scan

    dataset = open_dataset(str(path))
    report = scan(dataset)
    facts: Facts = {
        "kind": "data set",
        "path": str(path),
        "description": dataset.description,
        "found": report.sentence(),
        "images": report.images,
        "median_size": [report.median_width, report.median_height],
        "sides": [report.min_side, report.max_side],
        "modes": dict(report.modes),
    }
    if splits := available_splits(str(path)):
        facts["splits"] = list(splits)
    if dataset.classes:
        facts["classes"] = len(dataset.classes)
    if report.unreadable:
        facts["unreadable"] = [f"{fault.name}: {fault.reason}" for fault in report.unreadable[:20]]
    return facts
