"""Every task on real data: a model of ours, the same untrained, and raw pixels, with paired intervals.

    python -m benchmarks.packs --data PACKS --model photos=runs/photos --model cifar=runs/cifar --out FOLDER
    python -m benchmarks.packs ... --only bccd camvid              # some of them
    python -m benchmarks.packs ... --limit 20                      # does it run?

One row is one call of `nexus compare`'s Python door. Which model looks at which pack stands in `ROWS`, and
was written down before any result was there; settings were chosen on parts of training images. The
untrained model has the architecture and the first weights of the trained one: it is what that run was at step
0. A row takes a few minutes on one core. Rows that lie in `--out` already are not repeated; the table is
printed at the end.
"""

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.seed_head import hardware
from nexus.config import build, read_yaml
from nexus.evals.compare import BASELINE, compare
from nexus.log import set_up
from nexus.records import write_record
from nexus.training.config import TrainConfig
from nexus.training.state import build_state

TRAINED, UNTRAINED = "trained", "untrained"
HEADS = ("pack", "metric", "chance", "trained ahead of untrained", "of raw pixels")
Json = dict[str, Any]

_DEPTH = {"iterations": 300, "batch_size": 4, "resolution": 96, "learning_rates": [0.001, 0.005, 0.02]}


@dataclass(frozen=True)
class Row:
    """One pack: the model that fits what it shows, the tasks and their settings."""

    pack: str
    model: str
    settings: dict[str, dict[str, Any]]
    limit: int | None = None
    """Most images of either side."""


ROWS = (
    Row("cifar10", "cifar", {"knn": {}, "linear": {}}, limit=5000),
    Row("mnist", "cifar", {"knn": {}, "linear": {}}, limit=5000),
    Row("clothing10", "photos", {"knn": {}, "linear": {}}),
    Row("scene15", "photos", {"knn": {}, "linear": {}}),
    Row("camvid", "photos", {"segmentation": {"views": 2, "iterations": 300, "memory": 8000}}),
    Row("bccd", "photos", {"instance": {"max_steps": 150}}),
    Row("coco-cc", "photos", {"instance": {"max_steps": 150}}),
    Row("rgbd-redkitchen", "photos", {"depth": _DEPTH}),
    Row("kitti-depth-a", "photos", {"depth": _DEPTH}),
    Row("neardup-a", "photos", {"retrieval": {}}),
)


def main() -> None:
    """Measure what is missing, then print the table of everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the packs")
    parser.add_argument("--model", action="append", required=True, metavar="NAME=RUN")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results, one file a row")
    parser.add_argument("--only", nargs="+", choices=[row.pack for row in ROWS])
    parser.add_argument("--limit", type=int, help="most images of either side, to try it out")
    parser.add_argument("--threads", type=int, default=1)
    wanted = parser.parse_args()
    set_up()
    torch.set_num_threads(wanted.threads)
    models = dict(text.split("=", 1) for text in wanted.model)
    wanted.out.mkdir(parents=True, exist_ok=True)
    found = []
    for row in ROWS:
        file = wanted.out / f"{row.pack}.json"
        asked = (wanted.only is None or row.pack in wanted.only) and row.model in models
        if asked and not file.exists():
            measured = measure(row, wanted.data / row.pack, models[row.model], wanted.limit)
            write_record(file, measured)
        if file.exists():
            found.append(json.loads(file.read_text()))
    print(f"{hardware()}\n\n{markdown(found)}")


def measure(row: Row, data: Path, run: str, limit: int | None) -> Json:
    """The comparison of one row, with the CPU seconds that it took."""
    began = time.process_time()
    result = compare(
        data,
        {TRAINED: run, UNTRAINED: twin(Path(run))},
        list(row.settings),
        limit=row.limit if limit is None else limit,
        device="cpu",
        cache="off",
        **row.settings,
    )
    seconds = time.process_time() - began
    return {"pack": row.pack, "model": row.model, "cpu_seconds": seconds, **result}


def twin(run: Path) -> nn.Module:
    """The backbone of a run as it was before its first step."""
    config = build(TrainConfig, read_yaml(run / "config.yaml"))
    return build_state(config, torch.device("cpu")).model.teacher_backbone.eval()


def markdown(found: list[Json]) -> str:
    """The table: a line for each task and each part of one."""
    heads = [*HEADS[:2], TRAINED, UNTRAINED, BASELINE, *HEADS[2:]]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for one in found:
        for task in dict.fromkeys(row["task"] for row in one["table"]):
            lines.append(_line(one, task))
    seconds = ", ".join(f"{one['pack']} {one['cpu_seconds']:.0f}" for one in found)
    return "\n".join(lines) + f"\n\nCPU seconds: {seconds}."


def _line(one: Json, task: str) -> str:
    rows = {row["features"]: row for row in one["table"] if row["task"] == task}
    first = rows[TRAINED]
    values = [_with_interval(rows[name], name == TRAINED) for name in (TRAINED, UNTRAINED, BASELINE)]
    chance = "–" if first["chance"] is None else _number(first["chance"], first["unit"])
    metric = f"{task}: {first['metric']}, {first['samples']:,} images"
    ahead = [_ahead(one, task, other, first["higher_is_better"]) for other in (UNTRAINED, BASELINE)]
    return f"| {' | '.join([one['pack'], metric, *values, chance, *ahead])} |"


def _with_interval(row: Json, bold: bool) -> str:
    low, high = (_number(value, row["unit"], bare=True) for value in row["interval"])
    value = _number(row["value"], row["unit"])
    return f"{f'**{value}**' if bold else value} ({low} – {high})"


def _ahead(one: Json, task: str, other: str, higher_is_better: bool) -> str:
    """By how much the trained model is better, with its paired interval, and whether that is real."""
    pair = next(d for d in one["differences"] if (d["task"], d["a"], d["b"]) == (task, TRAINED, other))
    sign = 1 if higher_is_better else -1
    ends = sorted(sign * end for end in pair["interval"])
    low, high = (_number(end, pair["unit"], bare=True) for end in ends)
    verdict = {TRAINED: "", other: ", **behind**", None: ", not decided"}[pair["better"]]
    number = sign * pair["difference"]
    return f"{'+' if number > 0 else ''}{_number(number, pair['unit'], bare=True)} ({low} – {high}){verdict}"


def _number(value: float | None, unit: str, bare: bool = False) -> str:
    """A share in percent with one digit, or the value with two; a real minus sign; a dash for no number."""
    if value is None:
        return "–"
    text = f"{100 * value:.1f}" if unit == "%" else f"{value:.2f}"
    text = text.lstrip("-") if float(text) == 0 else text
    return text.replace("-", "−") + ("" if bare else f" {unit}")


if __name__ == "__main__":
    main()
