"""Tiny runs for the tests of the trainer: in this process, or in children that can be killed."""

import faulthandler
import hashlib
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from nexus.config import build, read_yaml
from nexus.training import RunResult, TrainConfig, train
from nexus.training.metrics import read_lines
from nexus.training.run import RunFolder
from nexus.training.state import TrainState, build_state
from nexus.training.throughput import CLOCK_KEYS

DATA = "synthetic:n=22,size=32,classes=2"
SETTINGS: dict[str, Any] = {
    "compute.device": "cpu",
    "compute.threads": 1,
    "schedule.steps": 6,
    "schedule.batch_size": 4,
    "model.depth": 1,
    "objective.out_dim": 64,
    "objective.hidden_dim": 32,
    "objective.bottleneck_dim": 16,
    "optim.warmup_steps": 2,
    "optim.freeze_last_layer_steps": 1,
    "checkpoint.every": 2,
    "log.every": 1,
    "online_eval.every": 0,
}

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.training.runs"])


def run(out: Path, data: str | Path = DATA, *, overwrite: bool = False, **settings: Any) -> RunResult:
    """A new run; `a__b=c` stands for `a.b=c`."""
    return train(data, out, recipe="smoke", overwrite=overwrite, overrides={**SETTINGS, **dotted(settings)})


def resume(out: Path, **settings: Any) -> RunResult:
    """Go on with a run."""
    return train(resume=out, overrides=dotted(settings))


def dotted(settings: dict[str, Any]) -> dict[str, Any]:
    return {key.replace("__", "."): value for key, value in settings.items()}


# -- children that can be killed ------------------------------------------------------------------


class Child:
    """`nexus train` in a process group of its own, forked from one that has imported everything."""

    def __init__(self, *arguments: str, workers: str = "fork", step_seconds: float = 0.0) -> None:
        self.beats, sender = FORKS.Pipe(duplex=False)
        handle, self.stacks = tempfile.mkstemp()
        os.close(handle)
        settings = (sender, arguments, workers, step_seconds, self.stacks)
        self.process: ForkServerProcess = FORKS.Process(target=_main, args=settings)
        self.process.start()
        sender.close()

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *error: object) -> None:
        with suppress(ProcessLookupError):
            self.signal(signal.SIGKILL)
        self.process.kill()
        self.process.join(10)
        os.unlink(self.stacks)

    def wait_for_steps(self, count: int) -> bool:
        """Wait until that many steps have begun; False if the child ended before."""
        try:
            for _ in range(count):
                self.beats.recv()
        except EOFError:
            return False
        return True

    def signal(self, number: int) -> None:
        """Send a signal to the child and to its loader workers."""
        os.killpg(self.process.pid, number)

    def join(self, seconds: float = 90) -> int | None:
        """Its exit code; None if it hangs, and then what it hangs in is printed.

        Longer than the 60 seconds after which an image, and who reads it, are given up.
        """
        self.process.join(seconds)
        if self.process.exitcode is None and self.process.pid is not None:
            os.kill(self.process.pid, signal.SIGUSR2)
            time.sleep(1)
            sys.stderr.write(Path(self.stacks).read_text())
        return self.process.exitcode


def start(
    out: Path, data: str | Path = DATA, workers: str = "fork", step_seconds: float = 0.0, **settings: Any
) -> Child:
    """A child that begins a run; `workers` says how it starts its loader processes."""
    values = {**SETTINGS, **dotted(settings)}
    arguments = ["--recipe", "smoke", "--data", str(data), "--out", str(out)]
    assignments = (f"{k}={v}" for k, v in values.items())
    return Child("train", *arguments, *assignments, workers=workers, step_seconds=step_seconds)


def _main(
    beats: Connection, arguments: tuple[str, ...], workers: str, step_seconds: float, stacks: str
) -> None:
    from nexus.cli import main
    from nexus.training import loop

    os.setsid()
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # a suite under nohup or in the background ignores these,
    signal.signal(signal.SIGINT, signal.default_int_handler)  # and so would its children
    faulthandler.register(signal.SIGUSR2, file=os.open(stacks, os.O_WRONLY), all_threads=True)
    multiprocessing.set_start_method(workers, force=True)
    os.set_blocking(beats.fileno(), False)
    step = loop.train_step

    def counted(*args: Any, **keywords: Any) -> Any:
        with suppress(BlockingIOError):  # the test has stopped counting
            beats.send(None)
        time.sleep(step_seconds)
        return step(*args, **keywords)

    loop.train_step = counted
    sys.argv = ["nexus", *arguments]
    with open(os.devnull, "w") as nowhere:
        sys.stdout = sys.stderr = nowhere
        main()


# -- what a run left ------------------------------------------------------------------------------


def restored(out: Path) -> TrainState:
    """The state in the newest checkpoint."""
    state = build_state(build(TrainConfig, read_yaml(out / "config.yaml")), torch.device("cpu"))
    state.restore(RunFolder(out), images=22)
    return state


def fingerprint(out: Path) -> dict[str, str]:
    """Hashes of both backbones, and of every tensor of the newest checkpoint."""
    state = restored(out)
    groups = {name: load_file(out / f"{name}.safetensors") for name in ("model", "student")}
    groups["state"] = state.tensors
    return {name: _hash(tensors) for name, tensors in groups.items()} | {"step": str(state.step)}


def _hash(tensors: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().contiguous().flatten().view(torch.uint8)
        digest.update(name.encode() + value.numpy().tobytes())
    return digest.hexdigest()


def lines(out: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without what depends on the clock."""
    records = read_lines(out / "metrics.jsonl")
    return [{k: v for k, v in r.items() if k not in CLOCK_KEYS} for r in records]


def log(out: Path) -> str:
    """Everything that was said."""
    return (out / "log.txt").read_text()
