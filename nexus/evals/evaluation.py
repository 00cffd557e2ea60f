"""`nexus.evaluate`: features once per split, every task on them, and raw pixels to compare with."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nexus.checkpoint import make_folder, write_atomic
from nexus.embedding import Encoder, load_backbone
from nexus.errors import ConfigError, RunError, choose
from nexus.evals.knn import KNNConfig, evaluate_knn
from nexus.evals.linear import LinearConfig, evaluate_linear
from nexus.evals.splits import labelled_splits
from nexus.features import Backbone, Features, Progress, extract, make_view, pick_device, raw_pixels

Result = dict[str, Any]
Task = Callable[..., Result]

EVALS: dict[str, Task] = {"knn": evaluate_knn, "linear": evaluate_linear}
"""Every evaluation by its name: `task(train, test, config, device=...)` on frozen features."""


def evaluate(
    data: str | Path | Sequence[str | Path],
    model: str | Path | nn.Module,
    tasks: str | Sequence[str] = ("knn", "linear"),
    *,
    out: str | Path | None = None,
    overwrite: bool = False,
    encoder: Encoder = "teacher",
    limit: int | None = None,
    baseline: bool = True,
    knn: KNNConfig | None = None,
    linear: LinearConfig | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Result:
    """How good the frozen features of `model` are on the labelled images `data`.

    The result can be written as JSON: `model`, `data`, `split` (a sentence), `size`, `unreadable`, one entry
    per task, with `baseline` the same on raw 32 × 32 pixels, and `table`: one row per features and task.
    `tasks` are names, or one text with commas. `out` is a `.json` file, or a folder that gets `eval.json`.
    `limit` caps the images of either side.
    `settings` are fields of `nexus.features.View` (`size`, `batch_size`, `device`, `precision`, ...).
    Raises `ConfigError` for an unknown task, `DataError` without labels, `RunError` if the file exists.
    """
    tasks = [name.strip() for name in tasks.split(",") if name.strip()] if isinstance(tasks, str) else tasks
    for task in tasks:
        choose(task, EVALS, "task")
    if not tasks:
        raise ConfigError(f"tasks is empty, so there is nothing to evaluate; known: {', '.join(EVALS)}")
    if limit is not None and limit < 1:
        raise ConfigError(f"limit={limit} leaves no image; use 1 or more, or leave it out")
    file = None if out is None else _free(Path(out), overwrite)
    view = make_view(None, {"device": "auto", **settings})
    knn, linear = knn or KNNConfig(), linear or LinearConfig()
    configs = {"knn": knn, "linear": linear}
    train_set, test_set, sentence = labelled_splits(data, limit)
    backbone: Backbone = load_backbone(model, encoder)
    layers = max(linear.n_last_blocks) if "linear" in tasks else 1
    if file is not None:
        make_folder(file.parent)  # before the long work

    def features(dataset: Any, mirrored: bool = False) -> Features:
        return extract(backbone, dataset, view, layers=layers, flip=mirrored, progress=progress)

    train, test = features(train_set), features(test_set)
    mirror = features(train_set, mirrored=True) if linear.flip and "linear" in tasks else None
    device = pick_device(view.device or "cpu")
    result: Result = {
        "model": model.__class__.__name__ if isinstance(model, nn.Module) else str(model),
        "data": str(data),
        "split": sentence,
        "size": train.size,
        "unreadable": [fault.name for fault in (*train.faults, *test.faults)],
        **_scores(tasks, train, test, mirror, configs, device),
    }
    if baseline:
        raw_train, raw_test = (
            raw_pixels(part, workers=view.workers, like=backbone) for part in (train_set, test_set)
        )
        result["baseline"] = _scores(tasks, raw_train, raw_test, None, configs, device)
    result["table"] = _table(result, tasks)
    if file is not None:
        write_atomic(file, json.dumps(result, indent=1) + "\n")
    return result


def _scores(
    tasks: Sequence[str],
    train: Features,
    test: Features,
    mirror: Features | None,
    configs: dict[str, Any],
    device: torch.device,
) -> Result:
    scores = {}
    for task in tasks:
        extra = {"flipped": mirror} if task == "linear" else {}
        scores[task] = EVALS[task](train, test, configs[task], device=device, **extra)
    return scores


def _table(result: Result, tasks: Sequence[str]) -> list[Result]:
    """The rows that the command line prints."""
    sources = {"model": result} | ({"raw pixels": result["baseline"]} if "baseline" in result else {})
    keys = ("top1", "interval", "samples", "chance")
    return [
        {"features": name, "task": task, **{key: scores[task][key] for key in keys}}
        for task in tasks
        for name, scores in sources.items()
    ]


def place_in_run(model: str) -> Path | None:
    """Where the evaluation of a run goes that nobody gave a place: `evals` in its folder, if we may write."""
    run = Path(model).expanduser()
    return run / "evals" if (run / "config.yaml").is_file() and os.access(run, os.W_OK) else None


def _free(out: Path, overwrite: bool) -> Path:
    if out.suffix != ".json" and out.is_file():
        raise RunError(f"{out} is a file; --out takes a folder, or a file that ends in .json")
    file = out if out.suffix == ".json" else out / "eval.json"
    if file.exists() and not overwrite:
        raise RunError(f"{file} exists; choose another --out, or replace it with --overwrite")
    return file
