"""Memory over many tiny steps of `nexus train`: does it stay flat?

    python -m benchmarks.memory --steps 20000

The real loop in one process, with a model so small that 20,000 steps take minutes: crops, step, log lines,
checkpoints, backbones, k-NN. Every 250 steps it notes how much memory the process holds (its resident set)
and how many objects Python's collector follows. Reported are the slopes over all but the first quarter of
the steps, with 95 % intervals: growth is what excludes zero. SIGTERM ends it early.
"""

import argparse
import datetime
import gc
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.seed_head import hardware
from nexus.training import loop, train

EVERY = 250
SETTINGS: dict[str, Any] = {
    "compute.device": "cpu",
    "compute.threads": 1,
    "model.depth": 1,
    "model.embed_dim": 16,
    "model.drop_path_rate": 0.4,
    "objective.out_dim": 32,
    "objective.hidden_dim": 16,
    "objective.bottleneck_dim": 8,
    "crops.global_size": 16,
    "crops.local_size": 8,
    "schedule.batch_size": 4,
    "log.every": 50,
    "checkpoint.every": 1000,
    "online_eval.every": 2000,
    "online_eval.max_images": 16,
}


def resident() -> float:
    """Memory of this process, MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def watch(steps: int, settings: dict[str, Any]) -> list[tuple[int, float, int]]:
    """Train, and note step, MiB and objects every `EVERY` steps."""
    seen: list[tuple[int, float, int]] = []
    original, count = loop.train_step, 0

    def counted(*arguments: Any, **keywords: Any) -> Any:
        nonlocal count
        if count % EVERY == 0:
            gc.collect()
            seen.append((count, resident(), len(gc.get_objects())))
        count += 1
        return original(*arguments, **keywords)

    loop.train_step = counted
    with tempfile.TemporaryDirectory() as folder:
        values = {**SETTINGS, "schedule.steps": steps, **settings}
        train("synthetic:n=64,size=16,classes=2", Path(folder) / "run", recipe="smoke", overrides=values)
    return seen


def slope(steps: Sequence[int], values: Sequence[float]) -> tuple[float, float]:
    """Least-squares slope for 1,000 steps, and half of its 95 % interval (residuals taken as independent)."""
    x, y = np.asarray(steps, dtype=float) / 1000, np.asarray(values, dtype=float)
    x = x - x.mean()
    best = float((x * y).sum() / (x**2).sum())
    rest = y - y.mean() - best * x
    deviation = float(np.sqrt((rest**2).sum() / (len(y) - 2) / (x**2).sum()))
    return best, 1.96 * deviation


def main() -> None:
    """Watch, print a table, and leave it in a file if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--set", nargs="*", default=[], help="settings, key=value")
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    seen = watch(options.steps, dict(pair.split("=", 1) for pair in options.set))
    done = seen[-1][0]
    late = [row for row in seen if row[0] >= done // 4]
    lines = [
        f"# Memory over {done:,} tiny steps",
        "",
        f"Command: `python -m benchmarks.memory --steps {options.steps} {' '.join(options.set)}`".strip()
        + "  ",
        f"Date: {datetime.date.today().isoformat()}. Hardware: {hardware()}. torch {torch.__version__}.  ",
        f"Settings: `{json.dumps(SETTINGS)}`",
        "",
    ]
    for name, column in (("resident memory, MiB", 1), ("objects of Python", 2)):
        value, half = slope([row[0] for row in late], [row[column] for row in late])
        lines.append(
            f"* {name}: {value:+.4f} ± {half:.4f} for 1,000 steps, from step {late[0][0]:,} on "
            f"({late[0][column]:,.1f} then, {late[-1][column]:,.1f} at the end)."
        )
    lines += ["", "| step | resident, MiB | objects |", "|---:|---:|---:|"]
    lines += [f"| {step:,} | {size:.1f} | {objects:,} |" for step, size, objects in seen]
    text = "\n".join(lines) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
