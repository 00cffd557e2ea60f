"""What is this? A weight file, a run folder, an architecture or a data set, in plain facts."""

import contextlib
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from nexus import checkpoint
from nexus.config import read_yaml
from nexus.errors import ConfigError, DataError, WeightsError
from nexus.models.vision import ViTConfig, architecture, build_backbone
from nexus.weights.contents import contents, first_names
from nexus.weights.download import read_origin, sha256_of
from nexus.weights.hub import cached_file, hub_url, is_hub_name
from nexus.weights.infer import architecture_name
from nexus.weights.loading import LoadReport, read_report
from nexus.weights.other_files import checkpoint_facts, other_facts, unknown_facts
from nexus.weights.pickles import is_pickle, refuse_damaged_archive
from nexus.weights.read import ENDINGS, is_safetensors, read_config, read_head, read_raw
from nexus.weights.source import FILES, locate
from nexus.weights.writing import LICENCE

Facts = dict[str, Any]

_QUICK_SUM = 1 << 30
"""Bytes up to which a sha256 is always computed; it takes about a second."""
_SHOWN_ELSEWHERE = {"source", "config", "tensors", "parameters", "dtype", "layout", "dropped", "described"}
_SHOWN_ELSEWHERE |= {"normalization", "look"}
"""Fields of a `LoadReport` that have words of their own; whatever else one has is shown as it is."""


def inspect(path: str | Path) -> Facts:
    """Facts about `path`, most important first; `kind` says what it is.

    | kind                         | for                                                          |
    |------------------------------|--------------------------------------------------------------|
    | `weights`                    | a weight file, a folder with one, a hub name                 |
    | `released model, not on ...` | a hub name whose file would be downloaded                    |
    | `run folder`                 | what `nexus train` left                                      |
    | `checkpoint`, `checkpoints`  | its parts that are for resuming                              |
    | `features, ...`              | what `nexus embed` left                                      |
    | `ONNX model`, `NumPy array`  | by their headers                                             |
    | `architecture`               | the name of one                                              |
    | `data set`                   | everything that `--data` takes                               |
    | `other file`                 | what nothing here reads; `problem` says what it is           |

    A weight file that cannot be used is described as far as it is understood, with `problem` saying why not.
    Nothing is downloaded and nothing executed. Raises `NexusError` when it is none of these.
    """
    where = Path(path).expanduser()
    if where.is_dir():
        return _folder(where)
    if where.exists():
        return _file(where)
    if is_hub_name(str(path)):
        return _released(str(path))
    if where.suffix.lower() in ENDINGS:
        raise WeightsError(f"there is no {where}; check the path (the current folder is {Path.cwd().name}/)")
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
    if "architecture" not in facts and "model" not in facts:
        count = next((f", {facts[key]:,} {key}" for key in ("images", "step") if key in facts), "")
        return f"{facts['path']}: {facts['kind']}{count}"
    if facts["kind"] == "run folder":
        text = f"{facts['path']}: run folder, {facts['state']}"
        return f"{text}, {facts['model']['architecture']}" if "model" in facts else text
    trained = f", step {facts['step']}" if "step" in facts else ""
    return (
        f"{facts.get('path', facts['architecture'])}: {facts['kind']}, {facts['architecture']}, "
        f"{facts['parameters']:,} parameters, {facts['image_size']} px{trained}"
    )


def _folder(folder: Path) -> Facts:
    if (folder / "config.yaml").is_file():
        return _run(folder)
    if facts := checkpoint_facts(folder):
        return facts
    backbone = any((folder / name).is_file() for name in FILES.values())
    return _weights(folder) if backbone or "model_type" in (_config(folder) or {}) else _data(folder)


def _file(path: Path) -> Facts:
    try:
        facts = other_facts(path)
    except WeightsError as error:
        if path.suffix.lower() in ENDINGS:
            return _weights(path)
        return unknown_facts(path, str(error))
    if facts is not None:
        return facts
    if path.suffix.lower() in ENDINGS or path.name.endswith(".index.json") or _is_weights(path):
        return _weights(path)
    try:
        facts = _data(path)
    except DataError as error:
        return unknown_facts(path, str(error))
    unreadable = facts.get("unreadable", ())
    return unknown_facts(path, unreadable[0]) if len(unreadable) == facts["images"] else facts


def _is_weights(path: Path) -> bool:
    """Whether a file without a known ending is a weight file by its content."""
    head = read_head(path)
    if not head.startswith(b"PK"):
        return is_pickle(head) or is_safetensors(path, head)
    with contextlib.suppress(WeightsError):
        refuse_damaged_archive(path, sums=False)
        return True
    return False


def _weights(source: str | Path) -> Facts:
    """A weight file, or the one in a folder: the file itself, what it holds, its backbone, its use."""
    facts: Facts = {"kind": "weights", "path": str(source)}
    try:
        path = locate(source, "teacher").path
        assert path is not None
        facts |= {"path": str(path), **_on_disk(path)}
        if not path.name.endswith(".json"):
            raw = read_raw(path)
            facts |= contents(raw.content)
            facts["first_tensors"] = first_names(raw.content)
        report = read_report(source)
    except WeightsError as error:
        return {**facts, "problem": str(error)}
    del facts["first_tensors"]
    facts["path"] = report.source
    facts |= _backbone(report)
    facts["lacks"] = _lacks(report, facts)
    facts["use"] = (
        "features (nexus embed, nexus eval, nexus.load), and the start of a training (nexus train --init)"
    )
    return facts


def _on_disk(path: Path) -> Facts:
    """Size, format and, where that is quick, sha256 of a file."""
    size, head = path.stat().st_size, read_head(path)
    names = {b"P": "PyTorch archive", b"\x80": "pickle", b"{": "index of several files"}
    kind = "safetensors" if is_safetensors(path, head) else names.get(head[:1], "unknown")
    facts: Facts = {"bytes": size, "format": kind}
    if size <= _QUICK_SUM:
        facts["sha256"] = sha256_of(path)
    return facts


def _lacks(report: LoadReport, facts: Facts) -> list[str]:
    """What one might expect in a file and does not find."""
    holds = " ".join(facts.get("holds", ()))
    lacks = [] if report.config.num_register_tokens else ["registers"]
    lacks += [] if "heads" in holds else ["heads"]
    lacks += [] if "optimizer" in holds else ["optimizer (training cannot be resumed from it)"]
    if not report.described:
        lacks += ["normalization (ImageNet's is taken)", "licence", "provenance"]
    elif facts["licence"] == LICENCE:
        lacks.append("licence")
    return lacks


def _released(name: str) -> Facts:
    """A released model: its file where it is here, else what it would be; nothing is downloaded."""
    path = cached_file(name)
    if path is None:
        facts = {**_architecture(name, architecture(name)), "address": hub_url(name)}
        return facts | {"kind": "released model, not on this machine"}
    facts = _weights(path)
    if origin := read_origin(path):
        facts["downloaded"] = origin
    return facts


def _backbone(report: LoadReport) -> Facts:
    """What is known about a backbone."""
    config, described = report.config, report.described
    side = config.img_size // config.patch_size
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
        "position_table": f"{side} × {side}, for {side * config.patch_size} px",
    }
    if report.dropped:
        facts["other_tensors"] = len(report.dropped)
    for entry in dataclasses.fields(report):
        value = getattr(report, entry.name)
        if entry.name not in _SHOWN_ELSEWHERE and value:
            facts[entry.name] = value
    if not described:
        facts["written_by"] = "not said; architecture inferred from the shapes of the tensors"
        return facts
    provenance = described.get("provenance", {})
    if isinstance(provenance, dict) and "step" in provenance:
        facts["step"] = provenance["step"]
    facts["normalization"] = described.get("normalization", {})
    facts["pixels"] = described.get("pixels", {"channels": "rgb", "value_range": None})
    facts["licence"] = described.get("licence", "not stated")
    facts["provenance"] = provenance
    return facts


def _architecture(name: str, config: ViTConfig) -> Facts:
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in build_backbone(config).parameters())
    facts = _backbone(LoadReport(name, config, 0, parameters, "", ""))
    for key in ("written_by", "tensors", "dtype", "layout", "normalization"):
        facts.pop(key, None)
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
