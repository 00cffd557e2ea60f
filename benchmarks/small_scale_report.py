"""The table of `benchmarks.small_scale`: each setting against the base on the same seeds and queries."""

import argparse
import datetime
import math
import statistics
from collections import defaultdict
from typing import Any

import torch

from benchmarks.seed_head import hardware

RESAMPLES = 1000
Rows = list[dict[str, Any]]


def report(rows: Rows, options: argparse.Namespace) -> str:
    """Markdown: what was run, the baselines, then one line a setting in the order of the results."""
    by_setting: dict[tuple[str, str], Rows] = defaultdict(list)
    for row in rows:
        by_setting[row["factor"], row["setting"]].append(row)
    base = {row["seed"]: row for row in by_setting[("base", "base")]}
    lines = [
        f"## {options.base}",
        "",
        f"{options.images:,} images a run, drawn from {options.train:,}; k-NN (k = 20) with a bank of "
        f"{options.bank:,} of them and {options.queries:,} others as queries, no test image. "
        f"Hardware: {hardware()}, one thread, bf16. {datetime.date.today().isoformat()}.",
        "",
        "| factor | setting | seeds | teacher k-NN, % | student, % | against the base, points | "
        "KL to uniform | CPU s |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for (factor, setting), found in by_setting.items():
        lines.append(_line(factor, setting, found, base))
    lines += [
        "",
        "Differences are those on the same seeds; the interval behind them is 95 %, seeds and queries "
        "resampled (paired). `KL to uniform` is ln K less the entropy of the teacher at the end, in nats.",
        "",
    ]
    return "\n".join(lines)


def _line(factor: str, setting: str, found: Rows, base: dict[int, dict[str, Any]]) -> str:
    pairs = [(row, base[row["seed"]]) for row in found if row["seed"] in base and factor != "base"]
    students = [row["student"] for row in found if row["student"] is not None]
    sharp = [
        row["metrics"]["uniform/entropy"] - row["metrics"]["teacher/entropy"]
        for row in found
        if "teacher/entropy" in row["metrics"]
    ]
    cells = [
        factor,
        setting,
        str(len(found)),
        _spread([row["knn"] for row in found]),
        _spread(students) if students else "",
        difference(pairs) if pairs else "",
        f"{statistics.mean(sharp):.2f}" if sharp else "",
        f"{statistics.mean(row['cpu_seconds'] for row in found):.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def _spread(values: list[float]) -> str:
    """`61.2 ± 0.8`: mean and standard deviation over the seeds, in percent."""
    mean = f"{100 * statistics.mean(values):.1f}"
    return f"{mean} ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else mean


def difference(pairs: list[tuple[dict[str, Any], dict[str, Any]]]) -> str:
    """`+1.3 (0.2 – 2.5)`: mean difference in points, with its interval over seeds and queries."""
    table = torch.stack([_right(row) - _right(other) for row, other in pairs])
    generator = torch.Generator().manual_seed(0)
    seeds, queries = table.shape
    means = []
    for _ in range(RESAMPLES):
        some = torch.randint(seeds, (seeds,), generator=generator)
        means.append(table[some][:, torch.randint(queries, (queries,), generator=generator)].mean())
    low, high = torch.stack(means).quantile(torch.tensor([0.025, 0.975])).mul(100).tolist()
    mean = 100 * float(table.mean())
    return f"{_sign(mean)} ({_sign(low)} – {_sign(high)})"


def _right(row: dict[str, Any]) -> torch.Tensor:
    return torch.tensor([float(hit) for hit in row["right"]])


def _sign(value: float) -> str:
    rounded = math.copysign(round(abs(value), 1), value)
    return f"{rounded:+.1f}" if rounded else "0.0"
