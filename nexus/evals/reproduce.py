"""Published figures beside ours: `nexus eval --reproduce dinov2_vits14 --data IMAGENET,IMAGENET-R`.

Each place that the user names is recognised as a benchmark (`nexus/evals/benchmarks.py`); what the authors
publish about the model on it (`nexus/evals/published.yaml`, with sources) is then evaluated with the
published settings, as far as ours have them: 224 pixels, all four inputs and thirteen rates of the linear
probe, 12,500 steps; of dense tasks the heads, sizes and steps.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml
from torch import nn

from nexus.checkpoint import make_folder
from nexus.config import Config, build
from nexus.errors import ConfigError, DataError, RunError, unknown
from nexus.evals.benchmarks import known_benchmark
from nexus.evals.evaluation import evaluate
from nexus.features import Progress
from nexus.records import write_record

FIGURES = Path(__file__).with_name("published.yaml")
STEPS = 12_500
"""Of the linear probe."""
SIZE = 224
DENSE = {
    "ADE20K": {
        "heads": ["linear", "ms"],
        "crop": 518,
        "resolution": 518,
        "iterations": 40_000,
        "learning_rates": [1e-3],
    },
    "NYUv2": {"heads": ["linear", "linear4", "dpt"], "resolution": 480, "iterations": 38_400},
    "KITTI": {"heads": ["linear", "linear4", "dpt"], "resolution": 375, "iterations": 38_400},
}
"""Settings of segmentation and depth that are published; sides become whole patches."""
TRAINED_ON = "ImageNet-1k"
"""Where the classifier comes from that is tested on shifted images."""


class Figure(Config):
    """One row of the table of published figures."""

    benchmark: str
    """Its name."""
    what: str
    """Which number it is."""
    task: str
    """The evaluation that measures it."""
    source: str
    """Who says so."""
    protocol: str
    """How the authors got there."""
    ours: str
    """Where our evaluation differs."""
    values: dict[str, float]
    """In percent, or in `unit`, by the name of the model."""
    part: str = ""
    """Which part of the task's result it is; empty for the headline."""
    unit: Literal["%", "m"] = "%"
    """Of the values."""

    def of(self, name: str) -> float:
        """The value of a model: a share in 0..1, or metres."""
        return self.values[name] / 100 if self.unit == "%" else self.values[name]


@cache
def published() -> tuple[Figure, ...]:
    """All figures, in the order of the file."""
    rows = yaml.safe_load(FIGURES.read_text(encoding="utf-8"))
    return tuple(build(Figure, row) for row in rows)


def figures_of(name: str) -> tuple[Figure, ...]:
    """The figures of one model; `ConfigError` with the nearest name where there are none."""
    found = tuple(figure for figure in published() if name in figure.values)
    if not found:
        known = {model for figure in published() for model in figure.values}
        raise ConfigError(unknown("model with published figures", name, known))
    return found


@dataclass(frozen=True)
class Todo:
    """One evaluation: a benchmark, where it lies, and the figures that it measures."""

    benchmark: str
    place: str
    figures: tuple[Figure, ...]
    shifted: Mapping[str, str]
    """Other test sets for the same classifier, by benchmark."""


def plan_of(name: str, data: str | Path | Sequence[str | Path]) -> list[Todo]:
    """What can be reproduced with the data that are there; `DataError` says what would be needed."""
    figures = figures_of(name)
    texts = [str(data)] if isinstance(data, str | Path) else [str(place) for place in data]
    places = [part.strip() for text in texts for part in text.split(",") if part.strip()]
    there = {place: known_benchmark(place) for place in places}
    wanted = dict.fromkeys(figure.benchmark for figure in figures)
    strange = [place for place, benchmark in there.items() if benchmark not in wanted]
    if strange or not there:
        raise DataError(
            f"{strange[0] if strange else 'nothing'} is none of the benchmarks with published figures of "
            f"{name}: {', '.join(wanted)}; name folders in which they lie as docs/data.md says"
        )
    shifted_names = {figure.benchmark for figure in figures if figure.task == "robustness"}
    shifted = {str(there[place]): place for place in places if there[place] in shifted_names}
    if shifted and TRAINED_ON not in there.values():
        raise DataError(
            f"{', '.join(shifted)} is tested with a classifier of {TRAINED_ON}; name its folder as well"
        )
    todo = []
    for place in places:
        benchmark = str(there[place])
        if benchmark in shifted:
            continue
        more = shifted if benchmark == TRAINED_ON else {}
        own = tuple(figure for figure in figures if figure.benchmark in (benchmark, *more))
        todo.append(Todo(benchmark, place, own, more))
    return todo


def reproduce(
    name: str,
    data: str | Path | Sequence[str | Path],
    *,
    model: str | Path | nn.Module | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    limit: int | None = None,
    overrides: Iterable[str] = (),
    progress: Progress | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Evaluate a released model as its authors did, and put both figures side by side.

    The result has `model`, `table` (one row a figure: `benchmark`, `what`, `unit`, `published` and `measured`
    in 0..1 or metres, `interval`, `samples`, `source`, how), and the whole `evaluations`. `model` stands for
    the weights if they are not those of the name. `settings` and `overrides` as in `nexus.evaluate`, over the
    published ones. Data are looked for before the weights. Raises as `nexus.evaluate`.
    """
    todo = plan_of(name, data)
    file = None if out is None else Path(out) if Path(out).suffix == ".json" else Path(out) / "reproduce.json"
    if file is not None:
        if file.exists() and not overwrite:
            raise RunError(f"{file} exists; choose another --out, or replace it with --overwrite")
        make_folder(file.parent)
    rows, evaluations = [], {}
    for part in todo:
        found = evaluate(
            part.place,
            name if model is None else model,
            list(dict.fromkeys(figure.task for figure in part.figures)),
            limit=limit,
            baseline=False,
            progress=progress,
            overrides=[*_protocol(part), *overrides],
            **{"size": SIZE, **settings},
        )
        evaluations[part.benchmark] = found
        rows += [_row(name, figure, part, found) for figure in part.figures]
    result = {"model": name, "limit": limit, "table": rows, "evaluations": evaluations}
    if file is not None:
        write_record(file, result)
    return result


def _protocol(part: Todo) -> list[str]:
    """The published settings, as overrides."""
    tasks = {figure.task for figure in part.figures}
    steps = [f"min_steps={STEPS}", f"max_steps={STEPS}"]
    found = [f"linear.{setting}" for setting in steps] if "linear" in tasks else []
    for task in tasks & {"segmentation", "depth"}:
        found += [f"{task}.{key}={json.dumps(value)}" for key, value in DENSE[part.benchmark].items()]
    if "robustness" in tasks:
        sets = json.dumps(list(part.shifted.values()))
        found += ["robustness.corruptions=[]", f"robustness.test_sets={sets}"]
        found += [f"robustness.linear.{setting}" for setting in steps]
    return found


def _row(name: str, figure: Figure, part: Todo, found: Mapping[str, Any]) -> dict[str, Any]:
    entry = found[figure.task]
    if figure.task == "robustness":  # its headline is the first other test set, the rest are parts
        first, *_ = part.shifted
        place = Path(part.shifted[figure.benchmark]).name
        entry = entry if figure.benchmark == first else entry["parts"][place]
    entry = entry["parts"][figure.part] if figure.part else entry
    return {
        "benchmark": figure.benchmark,
        "what": figure.what,
        "unit": figure.unit,
        "published": figure.of(name),
        "measured": entry["value"],
        "interval": entry["interval"],
        "samples": entry["samples"],
        "source": figure.source,
        "protocol": figure.protocol,
        "ours": figure.ours,
    }
