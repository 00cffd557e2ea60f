"""Two processes on two cores against one process on one core, the same images a process: how much faster?

    python -m benchmarks.scaling --rounds 3

Runs `nexus train` on synthetic images: one process; two processes that train one model; and two runs of one
process each that know nothing of each other, which is what the machine itself can give (memory, caches and
clocks are shared). In turn, by the median images per second that they log. Needs two idle cores.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
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


class Run:
    """A training of so many processes, started."""

    def __init__(self, folder: str, processes: int, options: argparse.Namespace) -> None:
        self.folder = Path(folder)
        words = ["train", "--data", "synthetic:n=256,size=96", "--out", f"{folder}/run", "--device", "cpu"]
        words += ["--model", options.arch, "--devices", str(processes), "--steps", str(options.steps)]
        words += ["--batch-size", str(options.batch * processes), *SETTINGS]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "nexus", *words],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    def rate(self) -> float:
        """Median images per second of the logged steps after the first two, once it has ended."""
        _, said = self._process.communicate()
        assert self._process.returncode == 0, said.decode()
        lines = (self.folder / "run" / "metrics.jsonl").read_text().splitlines()
        return statistics.median(json.loads(line)["images_per_second"] for line in lines[2:])


def together(runs: int, processes: int, options: argparse.Namespace) -> float:
    """Images per second of all `runs` that run at once."""
    with ExitStack() as stack:
        folders = [stack.enter_context(tempfile.TemporaryDirectory()) for _ in range(runs)]
        started = [Run(folder, processes, options) for folder in folders]
        return sum(run.rate() for run in started)


CONTESTS = {"one process": (1, 1), "two processes": (1, 2), "two runs apart": (2, 1)}
"""How many runs, of how many processes."""


def main() -> None:
    """Measure in turn; print one line a round, and the ratios of the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=8, help="images a process")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--arch", default="vit_tiny_patch8")
    options = parser.parse_args()
    rates: dict[str, list[float]] = {name: [] for name in CONTESTS}
    for number in range(options.rounds):
        for name, contest in CONTESTS.items():
            rates[name].append(together(*contest, options))
        found = ", ".join(f"{name} {measured[-1]:.2f}" for name, measured in rates.items())
        print(f"round {number + 1}, images/s: {found}", flush=True)
    medians = {name: statistics.median(found) for name, found in rates.items()}
    one = medians["one process"]
    print(", ".join(f"{name} {median:.2f} ({median / one:.2f} times)" for name, median in medians.items()))


if __name__ == "__main__":
    main()
