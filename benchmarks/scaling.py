"""Two processes on two cores against one process on one core, the same images a process: how much faster?

    python -m benchmarks.scaling --rounds 3

Runs `nexus train` on synthetic images, one and two processes in turn, and compares the median images per
second that they log. Needs two idle cores.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

SETTINGS = [
    "crops.global_size=96",
    "crops.local_size=40",
    "objective.out_dim=4096",
    "compute.threads=1",
    "compute.precision=fp32",
    "online_eval.every=0",
    "checkpoint.every=1000",
    "log.every=5",
]


def rate(processes: int, batch: int, steps: int, arch: str) -> float:
    """Median images per second of the logged steps after the first two."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["train", "--data", "synthetic:n=256,size=96", "--out", f"{folder}/run", "--device", "cpu"]
        words += ["--model", arch, "--devices", str(processes), "--steps", str(steps)]
        words += ["--batch-size", str(batch * processes), *SETTINGS]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run(
            [sys.executable, "-m", "nexus", *words], env=environment, check=True, capture_output=True
        )
        lines = (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()
    return statistics.median(json.loads(line)["images_per_second"] for line in lines[2:])


def main() -> None:
    """Measure in turn and print one line a round and the ratio of the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=8, help="images a process")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--arch", default="vit_tiny_patch8")
    options = parser.parse_args()
    rates: dict[int, list[float]] = {1: [], 2: []}
    for number in range(options.rounds):
        for processes, found in rates.items():
            found.append(rate(processes, options.batch, options.steps, options.arch))
        print(f"round {number + 1}: one {rates[1][-1]:.2f}, two {rates[2][-1]:.2f} images/s", flush=True)
    one, two = (statistics.median(found) for found in rates.values())
    print(f"median: one {one:.2f}, two {two:.2f} images/s, ratio {two / one:.2f}")


if __name__ == "__main__":
    main()
