"""`nexus compare`: the same tasks on several models, side by side."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from nexus.checkpoint import make_folder
from nexus.embedding import Encoder, load_backbone
from nexus.embedding.fingerprint import weights_digest
from nexus.errors import ConfigError
from nexus.evals.comparison import as_json, differences
from nexus.evals.context import EvalContext, Spec
from nexus.evals.evaluation import Model, free_place, plan, table
from nexus.evals.results import Entry, entry
from nexus.evals.task import TaskResult
from nexus.features import Progress
from nexus.records import write_record

BASELINE = "raw pixels"


def compare(
    data: Spec,
    models: Sequence[Model] | Mapping[str, Model],
    tasks: str | Sequence[str] = ("knn", "linear"),
    *,
    out: str | Path | None = None,
    overwrite: bool = False,
    encoder: Encoder = "teacher",
    limit: int | None = None,
    seeds: int = 1,
    baseline: bool = True,
    cache: str | Path | None = None,
    overrides: Iterable[str] | Mapping[str, Any] = (),
    progress: Progress | None = None,
    **settings: Any,
) -> Entry:
    """Evaluate several models on the same images, and say which differences between them are real.

    `models` are at least two of whatever `evaluate` takes, or a mapping that gives them names. The result can
    be written as JSON: `models`, `same` (pairs with equal weights), `results` (an entry per model and task),
    `table`, and `differences` as `nexus.evals.comparison.Difference` describes them. `out` is a `.json` file,
    or a folder that gets `compare.json`. Everything else is as in `nexus.evaluate`.
    """
    named = _named(models)
    todo = plan(data, tasks, limit=limit, seeds=seeds, cache=cache, overrides=overrides, **settings)
    file = None if out is None else free_place(Path(out), overwrite, "compare.json")
    if file is not None:
        make_folder(file.parent)  # before the long work
    found: dict[str, dict[str, TaskResult]] = {}
    weights: dict[str, str] = {}
    first: EvalContext | None = None
    for name, model in named.items():
        backbone = load_backbone(model, encoder)
        weights[name] = weights_digest(backbone)
        context = todo.context(backbone, progress)
        context = context if first is None else first.with_backbone(backbone)
        found[name] = todo.run(context)
        first = first or context
    assert first is not None
    if baseline:
        found[BASELINE] = todo.run(first.on_pixels())
    entries = {name: {task: entry(one) for task, one in tasks.items()} for name, tasks in found.items()}
    result: Entry = {
        "data": str(data),
        "models": {name: _text(model) for name, model in named.items()},
        "same": _same(weights),
        "split": next(iter(found[next(iter(found))].values())).split,
        "results": entries,
        "table": table(entries),
        "differences": as_json(differences(found)),
    }
    if file is not None:
        write_record(file, result)
    return result


def _named(models: Sequence[Model] | Mapping[str, Model]) -> dict[str, Model]:
    """Models by short names that differ: their last folder, or as much of the path as it takes."""
    if isinstance(models, Mapping):
        named = dict(models)
    else:
        texts = [_text(model) for model in models]
        twice = next((text for text in texts if texts.count(text) > 1), None)
        if twice is not None and all(isinstance(model, str | Path) for model in models):
            raise ConfigError(f"{twice} is named twice; name each model once")
        short = [text if ":" in text else Path(text).name for text in texts]
        names = short if len(set(short)) == len(short) else texts
        if len(set(names)) < len(names):  # modules of one class
            names = [f"{name} {number}" for number, name in enumerate(names, 1)]
        named = dict(zip(names, models, strict=True))
    if len(named) < 2:
        raise ConfigError("a comparison needs two models or more; `nexus eval` measures one")
    if BASELINE in named:
        raise ConfigError(f"a model cannot be called {BASELINE!r}, the name of the baseline; rename it")
    return named


def _text(model: Model) -> str:
    return type(model).__name__ if isinstance(model, nn.Module) else str(model)


def _same(weights: Mapping[str, str]) -> list[list[str]]:
    names = list(weights)
    return [[a, b] for i, a in enumerate(names) for b in names[i + 1 :] if weights[a] == weights[b]]
