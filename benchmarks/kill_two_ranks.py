"""Kills at random moments of a run of two processes, resumed each time: the same final weights, bit by bit?

    python -m benchmarks.kill_two_ranks --kills 60 --seed 1

Each round kills one process or both, at a moment drawn over the whole life of the run, writing included; the
launcher ends what is left. Prints one line at the end, and ends with code 1 if anything differs.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from tests.training import runs

SETTINGS = {
    **runs.SETTINGS,
    "schedule.accumulation": 2,
    "model.depth": 2,
    "model.drop_path_rate": 0.4,
    "checkpoint.every": 3,
    "log.every": 4,
}


def launch(words: list[str]) -> subprocess.Popen[bytes]:
    """Start `nexus train` on two processes."""
    return subprocess.Popen(
        [sys.executable, "-m", "nexus", "train", "--devices", "2", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def begin(out: Path, steps: int) -> list[str]:
    """The command line of a new run."""
    words = ["--recipe", "smoke", "--data", runs.DATA, "--out", str(out)]
    return words + [f"{key}={value}" for key, value in {**SETTINGS, "schedule.steps": steps}.items()]


def ranks_of(launcher: int) -> list[int]:
    """The processes that a launcher has started."""
    with suppress(OSError):
        return [int(word) for word in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()]
    return []


def kill_somewhere(started: subprocess.Popen[bytes], out: Path, rng: random.Random) -> bool:
    """Kill one process or both after the run has begun to step; False if it ended before."""
    lines = (out / "metrics.jsonl").stat().st_mtime_ns if (out / "metrics.jsonl").exists() else 0
    while started.poll() is None:
        if (out / "metrics.jsonl").exists() and (out / "metrics.jsonl").stat().st_mtime_ns != lines:
            break
        time.sleep(0.005)
    if rng.random() < 0.5:
        deadline = time.monotonic() + 1.0
        while time.monotonic() < deadline and not any(out.glob("checkpoints/.writing-*")):
            pass
    time.sleep(rng.uniform(0.0, 1.2) ** 2)
    if started.poll() is not None:
        return False
    ranks = ranks_of(started.pid)
    for rank in rng.sample(ranks, rng.randint(1, len(ranks))) if ranks else []:
        with suppress(ProcessLookupError):
            os.kill(rank, signal.SIGKILL)
    started.wait()
    return True


def main() -> None:
    """Kill until there were enough, comparing every finished run with one that was left alone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng, kills, finished, wrong = random.Random(options.seed), 0, 0, 0
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole"
        assert launch(begin(whole, options.steps)).wait() == 0
        expected = runs.fingerprint(whole), runs.lines(whole)
        while kills < options.kills:
            out = Path(folder) / f"killed {finished}"
            started = launch(begin(out, options.steps))
            while kills < options.kills and kill_somewhere(started, out, rng):
                kills += 1
                started = launch(
                    ["--resume", str(out)] if (out / "config.yaml").exists() else begin(out, options.steps)
                )
            assert started.wait() == 0, "a run could not go on"
            finished += 1
            wrong += (runs.fingerprint(out), runs.lines(out)) != expected
            print(f"{kills} kills, {finished} runs finished, {wrong} of them differ", flush=True)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
