"""Kills at random moments of a run of two processes, resumed each time: the same final weights, bit by bit?

    python -m benchmarks.kill_two_ranks --kills 20 --folder runs/kills
    python -m benchmarks.kill_two_ranks --kills 20 --folder runs/kills --forked  # far less CPU time a kill
    python -m benchmarks.kill_two_ranks --kills 0 --folder runs/kills            # what was found so far

Each kill ends one process or both, at a moment drawn over the whole life of the run: at any time after the
start, or after a step, or while a checkpoint is being written. The launcher (`nexus train --devices 2`) ends
what is left; with `--forked` two processes are forked from one that has imported everything, told their ranks
as torchrun does, and the one that is left ends by itself or is ended after a while. A run that got
through is compared with one that was left alone: every tensor of its checkpoint, both weight files, and its
`metrics.jsonl`. Kills and finished runs are lines of `FOLDER/tally.jsonl`. The same folder goes on with the
run that was being killed, so a campaign can be made in pieces. Ends with code 1 if anything differs.
"""

import argparse
import json
import multiprocessing.connection
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from nexus import checkpoint
from tests.training import runs

SETTINGS = {
    **runs.SETTINGS,
    "schedule.accumulation": 2,
    "model.depth": 2,
    "model.drop_path_rate": 0.4,
    "checkpoint.every": 3,
    "log.every": 4,
}
MOMENTS = {"start": 0.2, "step": 0.4, "write": 0.4}
"""When kills fall, and how often."""


class Campaign:
    """A folder with the run that was left alone, the one that is being killed, and the tally of all."""

    def __init__(self, folder: Path, steps: int, launch: "Callable[[Sequence[str]], Pair]") -> None:
        self.folder, self.steps, self.launch = folder, steps, launch
        self.tally = folder / "tally.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        self.whole = folder / "whole"
        if not (self.whole / "model.safetensors").exists() or not self.records("whole"):
            began, started = time.monotonic(), launch(begin(self.whole, steps))
            _wait(started, lambda: _logged(self.whole, 0.0) > 0)
            seconds = time.monotonic() - began
            assert started.wait() == 0, "the run that is left alone failed"
            self.note(kind="whole", steps=steps, seconds_to_first_line=seconds)
        assert self.records("whole")[0]["steps"] == steps, "another --steps than that of this folder"
        self.expected = runs.fingerprint(self.whole), runs.lines(self.whole)

    def records(self, kind: str) -> list[dict[str, Any]]:
        """Everything of one kind that happened so far."""
        lines = self.tally.read_text().splitlines() if self.tally.exists() else []
        return [record for record in map(json.loads, lines) if record["kind"] == kind]

    def note(self, **record: Any) -> None:
        """Add a line to the tally."""
        with self.tally.open("a") as file:
            file.write(json.dumps(record) + "\n")

    def kill(self, kills: int) -> None:
        """That many kills more, over as many runs as it takes."""
        while kills > 0:
            number = len(self.records("run"))
            out = self.folder / f"killed {number}"
            started = self._go_on(out)
            while kills > 0 and (kill := kill_somewhere(started, out, self._rng(), self._seconds())):
                kills -= 1
                self.note(kind="kill", run=number, how=type(started).__name__, **kill)
                started = self._go_on(out)
            if started.wait() != 0:
                self.note(kind="run", run=number, same=False, error=f"code {started.poll()}")
                continue
            found = runs.fingerprint(out), runs.lines(out)
            self.note(kind="run", run=number, same=found == self.expected)

    def _go_on(self, out: Path) -> "Pair":
        """Start the run, or resume it if it left anything to resume."""
        resumable = (out / "config.yaml").exists()
        return self.launch(["--resume", str(out)] if resumable else begin(out, self.steps))

    def _seconds(self) -> float:
        """About how long a start takes."""
        return 1.5 * float(self.records("whole")[0]["seconds_to_first_line"])

    def _rng(self) -> random.Random:
        """Other moments for each kill and run, the same ones for the same tally."""
        return random.Random(1000 * len(self.records("run")) + len(self.records("kill")))

    def summary(self) -> tuple[str, bool]:
        """What was found, as Markdown, and whether all of it is well."""
        kills, finished = self.records("kill"), self.records("run")
        different = [record["run"] for record in finished if not record["same"]]
        moments = Counter((kill["how"], kill["moment"], kill["writing"]) for kill in kills)
        lines = [
            f"{len(kills)} kills, {len(finished)} runs of {self.steps} steps finished, {len(different)} of "
            f"them differ from the run that was left alone{f': {different}' if different else ''}.",
            "",
            "| processes | drawn moment | while a checkpoint was being written | kills |",
            "|---|---|---|---:|",
            *(
                f"| {how.lower()} | {name} | {'yes' if writing else 'no'} | {n} |"
                for (how, name, writing), n in sorted(moments.items())
            ),
        ]
        return "\n".join(lines), not different


class Launched:
    """`nexus train --devices 2`."""

    def __init__(self, words: Sequence[str]) -> None:
        command = [sys.executable, "-m", "nexus", "train", "--devices", "2", *words]
        nowhere = subprocess.DEVNULL
        self.process = subprocess.Popen(command, stdout=nowhere, stderr=nowhere)

    def ranks(self) -> list[int]:
        """The process numbers of the two."""
        pid = self.process.pid
        with suppress(OSError):
            return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        return []

    def poll(self) -> int | None:
        """The exit code, if it has ended."""
        return self.process.poll()

    def wait(self) -> int:
        """The exit code."""
        return self.process.wait()


class Forked:
    """Two processes that find everything imported, and are told their ranks as torchrun does."""

    def __init__(self, words: Sequence[str]) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        arguments = [(rank, port, list(words)) for rank in range(2)]
        self.processes = [runs.FORKS.Process(target=_rank, args=each, daemon=True) for each in arguments]
        for process in self.processes:
            process.start()

    def ranks(self) -> list[int]:
        """The process numbers of those that run."""
        return [process.pid for process in self.processes if process.pid and process.is_alive()]

    def poll(self) -> int | None:
        """The worst exit code, if both have ended."""
        codes = [process.exitcode for process in self.processes]
        return None if None in codes else max(abs(code or 0) for code in codes)

    def wait(self) -> int:
        """The worst exit code; a process whose other one failed is ended after a while."""
        multiprocessing.connection.wait([process.sentinel for process in self.processes])
        failed = any(process.exitcode for process in self.processes)
        for process in self.processes:
            process.join(30 if failed else None)
            process.kill()
            process.join()
        return self.poll() or 0


Pair = Launched | Forked


def _rank(rank: int, port: int, words: list[str]) -> None:
    """Body of a forked process."""
    from nexus.cli import main

    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ.update({name: str(number) for name, number in numbers.items()}, MASTER_ADDR="127.0.0.1")
    sys.argv = ["nexus", "train", *words]
    with open(os.devnull, "w") as nowhere:
        sys.stdout = sys.stderr = nowhere
        main()


def begin(out: Path, steps: int) -> list[str]:
    """The command line of a new run."""
    words = ["--recipe", "smoke", "--data", runs.DATA, "--out", str(out)]
    return words + [f"{key}={value}" for key, value in {**SETTINGS, "schedule.steps": steps}.items()]


def kill_somewhere(
    started: Pair, out: Path, rng: random.Random, start_seconds: float
) -> dict[str, Any] | None:
    """Kill one process or both at a moment that is drawn; what was done, nothing if the run ended first."""
    since = time.time()
    (moment,) = rng.choices(list(MOMENTS), list(MOMENTS.values()))
    if moment == "start":
        _wait(started, lambda: len(started.ranks()) == 2)
        time.sleep(rng.uniform(0.0, start_seconds))
    else:
        saved = checkpoint.latest(out / "checkpoints")
        step = checkpoint.step_of(saved) if saved else 0
        _wait(started, lambda: _logged(out, since) > step)
    if moment == "write":
        _wait(started, lambda: writing(out, since), seconds=3.0)
        time.sleep(rng.uniform(0.0, 0.3) ** 2)
    if moment == "step":
        time.sleep(rng.uniform(0.0, 1.2) ** 2)
    ranks = started.ranks()
    if started.poll() is not None or not ranks:
        return None
    victims = rng.sample(ranks, rng.randint(1, len(ranks)))
    at = {"moment": moment, "writing": writing(out, since), "victims": len(victims)}
    for rank in victims:
        with suppress(ProcessLookupError):
            os.kill(rank, signal.SIGKILL)
    started.wait()
    return at


def writing(out: Path, since: float) -> bool:
    """Whether a checkpoint is being written, and not what an earlier kill left of one."""
    with suppress(OSError):
        return any(path.stat().st_mtime > since for path in out.glob("checkpoints/.writing-*"))
    return False


def _logged(out: Path, since: float) -> int:
    """The last step in the log, if it was written to; a run that goes on first drops what it will repeat."""
    log = out / "metrics.jsonl"
    found = runs.lines(out) if log.exists() and log.stat().st_mtime > since else []
    return found[-1]["step"] if found else 0


def _wait(started: Pair, until: Callable[[], bool], seconds: float = 600.0) -> None:
    """Wait until something is so, the process has ended, or the time is up."""
    deadline = time.monotonic() + seconds
    while started.poll() is None and time.monotonic() < deadline and not until():
        time.sleep(0.005)


def main() -> None:
    """Some kills more, and the tally of all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="kills more")
    parser.add_argument("--steps", type=int, default=60, help="steps of a run")
    parser.add_argument("--folder", type=Path, required=True, help="where the campaign lives")
    parser.add_argument("--forked", action="store_true", help="without the launcher")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the forked processes too
    campaign = Campaign(options.folder, options.steps, Forked if options.forked else Launched)
    campaign.kill(options.kills)
    text, well = campaign.summary()
    print(text)
    sys.exit(not well)


if __name__ == "__main__":
    main()
