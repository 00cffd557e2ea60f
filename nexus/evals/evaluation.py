"""`nexus.evaluate`: every task on one backbone, and on raw pixels to compare with."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from nexus.checkpoint import make_folder, write_atomic
from nexus.config import Config
from nexus.embedding import Encoder, FeatureCache, load_backbone
from nexus.errors import ConfigError, RunError
from nexus.evals.context import EvalContext, Spec
from nexus.evals.page import eval_page
from nexus.evals.registry import TASKS, task_configs, task_named, task_names
from nexus.evals.results import Entry, entry, rows
from nexus.evals.task import TaskResult
from nexus.features import Progress, View, eval_mode, make_view, pick_device, place_on
from nexus.records import write_record

Model = str | Path | nn.Module


@dataclass(frozen=True)
class Plan:
    """What is to be evaluated, checked: tasks with their settings, and how images are shown."""

    tasks: Mapping[str, Config]
    view: View
    data: Spec
    limit: int | None = None
    seeds: int = 1
    cache: FeatureCache | None = None

    def context(self, backbone: Any, progress: Progress | None = None) -> EvalContext:
        """The context of a backbone, which is moved to the device."""
        device = pick_device(self.view.device or "cpu")
        place_on(backbone, device)
        return EvalContext(
            backbone=backbone,
            data=self.data,
            view=self.view,
            device=device,
            limit=self.limit,
            seeds=self.seeds,
            layers=max(task_named(name).layers(config) for name, config in self.tasks.items()),
            progress=progress,
            cache=self.cache,
        )

    def run(self, context: EvalContext) -> dict[str, TaskResult]:
        """What each task finds."""
        with eval_mode(context.backbone):
            return {name: task_named(name).run(context, config) for name, config in self.tasks.items()}


def plan(
    data: Spec,
    tasks: str | Sequence[str],
    *,
    limit: int | None = None,
    seeds: int = 1,
    cache: str | Path | None = None,
    overrides: Iterable[str] | Mapping[str, Any] = (),
    **settings: Any,
) -> Plan:
    """Check everything that can be checked without a look at model and data; `settings` as in `evaluate`."""
    names = task_names(tasks)
    if limit is not None and limit < 1:
        raise ConfigError(f"limit={limit} leaves no image; use 1 or more, or leave it out")
    if seeds < 1:
        raise ConfigError(f"seeds={seeds} trains nothing; use 1 or more")
    given = {name: settings.pop(name) for name in list(settings) if name in TASKS}
    view = make_view(None, {"device": "auto", **settings})
    return Plan(task_configs(names, given, overrides), view, data, limit, seeds, FeatureCache.at(cache))


def evaluate(
    data: Spec,
    model: Model,
    tasks: str | Sequence[str] = ("knn", "linear"),
    *,
    out: str | Path | None = None,
    overwrite: bool = False,
    encoder: Encoder = "teacher",
    limit: int | None = None,
    seeds: int = 1,
    baseline: bool = True,
    cache: str | Path | None = None,
    html: bool = False,
    overrides: Iterable[str] | Mapping[str, Any] = (),
    progress: Progress | None = None,
    **settings: Any,
) -> Entry:
    """How good the frozen features of `model` are for `tasks` on `data`.

    The result can be written as JSON: `model`, `data`, `split` (a sentence), `size`, `unreadable`, one entry
    per task, with `baseline` the same on raw pixels, and `table`: one row per features and task.
    `tasks` are names, or one text with commas. `out` is a `.json` file, or a folder that gets `eval.json`;
    with `html` a page with pictures lies beside it, `eval.html`.
    `limit` caps the images of either side. `seeds` is how often whatever is trained is trained. `cache` is
    the folder where features are kept for the next time (`nexus.embedding.cache` says how), or `"off"`.

    `settings` are those of the tasks, by task (`linear=LinearConfig(...)`, or a mapping), and the fields of
    `nexus.features.View` (`size`, `batch_size`, `device`, `precision`, ...). `overrides` are laid over them:
    `["linear.epochs=5"]`, or a mapping.

    Raises `ConfigError` for an unknown task or setting, `DataError` without labels, `RunError` if the file
    exists.
    """
    todo = plan(data, tasks, limit=limit, seeds=seeds, cache=cache, overrides=overrides, **settings)
    file = None if out is None else free_place(Path(out), overwrite)
    context = todo.context(load_backbone(model, encoder), progress)
    if file is not None:
        make_folder(file.parent)  # before the long work
    found = todo.run(context)
    entries = {name: entry(result) for name, result in found.items()}
    height, width = context.size
    result: Entry = {
        "model": model.__class__.__name__ if isinstance(model, nn.Module) else str(model),
        "data": str(data),
        "split": next(iter(found.values())).split,
        "size": height if height == width else 0,
        "unreadable": list(dict.fromkeys(name for one in found.values() for name in one.unreadable)),
        **entries,
    }
    sources = {"model": entries}
    if baseline:
        raw = todo.run(context.on_pixels())
        result["baseline"] = sources["raw pixels"] = {name: entry(one) for name, one in raw.items()}
    result["table"] = table(sources)
    if file is not None:
        write_record(file, result)
        if html:
            drawn = {name: one.pictures() for name, one in found.items()}
            write_atomic(file.with_suffix(".html"), eval_page(result, drawn))
    return result


def table(sources: Mapping[str, Mapping[str, Entry]]) -> list[Entry]:
    """The rows that the command line prints, from entries by source and task."""
    names = next(iter(sources.values()))
    return [
        row
        for name in names
        for row in rows(name, {source: found[name] for source, found in sources.items()})
    ]


def place_in_run(model: str) -> Path | None:
    """Where the evaluation of a run goes that nobody gave a place: `evals` in its folder, if we may write."""
    run = Path(model).expanduser()
    return run / "evals" if (run / "config.yaml").is_file() and os.access(run, os.W_OK) else None


def free_place(out: Path, overwrite: bool, name: str = "eval.json") -> Path:
    """The file that a result goes to, `name` in a folder; `RunError` where it is in the way."""
    if out.suffix != ".json" and out.is_file():
        raise RunError(f"{out} is a file; --out takes a folder, or a file that ends in .json")
    file = out if out.suffix == ".json" else out / name
    if file.exists() and not overwrite:
        raise RunError(f"{file} exists; choose another --out, or replace it with --overwrite")
    return file
