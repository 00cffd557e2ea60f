"""Can a checkpoint be chosen without labels? Label-free scores of many runs against their k-NN.

Takes the runs that `benchmarks/doctor.py` left, well and ill, measures the k-NN of each teacher on labelled
images of the same kind, and correlates ranks::

    python -m benchmarks.doctor_selection --folder runs/doctor

With `--within RUN` the looks of one run are compared with its online k-NN at the same steps.
"""

import argparse
import datetime
import math
import os
import sys
from pathlib import Path

import numpy as np

import nexus
from benchmarks.doctor import processor
from nexus.config import read_yaml
from nexus.data.datasets import open_dataset
from nexus.evals.knn import evaluate_knn
from nexus.evals.splits import split_labelled
from nexus.features import extract
from nexus.health.course import Course
from nexus.health.logs import read_log
from nexus.training.metrics import read_lines

SCORES = (
    "health/rankme",
    "health/effective_rank",
    "health/alpha",
    "health/lidar",
    "health/nearest",
    "health/retrieval",
    "health/std",
    "health/cosine",
    "loss",
    "dino",
    "ibot",
)
DOWN = {"loss", "dino", "ibot", "health/cosine", "health/alpha"}
"""Scores of which less is expected to be better: their sign is turned."""
LABELLED = {"synthetic": "synthetic:n=1200,size=32,classes=6,seed=9"}
RESAMPLES = 2000


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1, the mean rank for ties."""
    order = np.argsort(values, kind="stable")
    places = np.empty(len(values))
    places[order] = np.arange(1, len(values) + 1)
    for value in np.unique(values):
        places[values == value] = places[values == value].mean()
    return places


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Correlation of ranks; NaN where one side is constant."""
    x, y = ranks(a), ranks(b)
    x, y = x - x.mean(), y - y.mean()
    size = math.sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / size if size else math.nan


def interval(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """95 % bootstrap interval over runs."""
    rng = np.random.default_rng(0)
    draws = rng.integers(0, len(a), (RESAMPLES, len(a)))
    low, high = np.nanquantile([spearman(a[rows], b[rows]) for rows in draws], [0.025, 0.975])
    return float(low), float(high)


def knn_of(run: Path, source: str) -> float:
    """k-NN top-1 of the teacher on labelled images of the kind that it was trained on."""
    kind = source.partition(":")[0]
    train, test, _ = split_labelled(open_dataset(LABELLED.get(kind, source), None), limit=1000)
    backbone = nexus.load(str(run))
    size = int(read_yaml(run / "config.yaml")["crops"]["global_size"])
    found = evaluate_knn(*(extract(backbone, part, size=size) for part in (train, test)))
    return float(found["top1"])


def main(arguments: list[str]) -> int:
    """Print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("runs/doctor"))
    parser.add_argument(
        "--source", default="synthetic", help="which runs: the beginning of their data.source"
    )
    parser.add_argument("--out", type=Path)
    parser.add_argument("--within", type=Path, help="a run with online k-NN at the steps of its looks")
    options = parser.parse_args(arguments)
    if options.within:
        course = read_log(options.within).course
        looked = {key: dict(course.of(key)) for key in (*SCORES, "knn")}
        steps = sorted(looked["knn"].keys() & looked["health/rankme"].keys())
        columns = {step: {key: looked[key][step] for key in SCORES if step in looked[key]} for step in steps}
        text = report([(f"step {step}", looked["knn"][step], columns[step]) for step in steps])
        print(text)
        if options.out:
            options.out.write_text(text, encoding="utf-8")
        return 0
    rows: list[tuple[str, float, dict[str, float]]] = []
    for run in sorted(options.folder.iterdir()):
        if not (run / "model.safetensors").is_file() or not (run / "metrics.jsonl").is_file():
            continue
        source = str(read_yaml(run / "config.yaml")["data"]["source"])
        course = Course(read_lines(run / "metrics.jsonl"))
        if not source.startswith(options.source) or "health/rankme" not in course:
            continue
        values = {key: course.last(key) for key in SCORES}
        rows.append((run.name, knn_of(run, source), {k: v for k, v in values.items() if v is not None}))
        print(f"{run.name}: k-NN {rows[-1][1]:.3f}", flush=True)
    text = report(rows)
    print(text)
    if options.out:
        options.out.write_text(text, encoding="utf-8")
    return 0


def report(rows: list[tuple[str, float, dict[str, float]]]) -> str:
    """One line a score."""
    lines = [
        "# Label-free scores against k-NN",
        "",
        f"{datetime.date.today()}, {os.cpu_count()} cores of {processor()}; "
        f"{len(rows)} rows, `python -m benchmarks.doctor_selection {' '.join(sys.argv[1:])}`",
        "",
        "| score (sign turned where less is better) | runs | Spearman with k-NN | 95 % interval |",
        "|---|---|---|---|",
    ]
    for key in SCORES:
        pairs = [(values[key], knn) for _, knn, values in rows if key in values]
        if len(pairs) < 5:
            continue
        score, knn = (np.array(column) for column in zip(*pairs, strict=True))
        score = -score if key in DOWN else score
        low, high = interval(score, knn)
        name = f"-`{key}`" if key in DOWN else f"`{key}`"
        lines.append(f"| {name} | {len(pairs)} | {spearman(score, knn):.2f} | {low:.2f} to {high:.2f} |")
    lines += ["", "| run | k-NN | retrieval | effective rank | RankMe | LiDAR |", "|---|---|---|---|---|---|"]
    for name, top1, values in sorted(rows, key=lambda row: -row[1]):
        shown = ("health/retrieval", "health/effective_rank", "health/rankme", "health/lidar")
        lines.append(
            f"| {name} | {top1:.1%} | " + " | ".join(f"{values.get(k, math.nan):.3g}" for k in shown) + " |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
