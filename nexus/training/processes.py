"""The processes of a run: who started them, how they meet, and what happens when one is lost.

| started by                               | known by                                        |
|------------------------------------------|-------------------------------------------------|
| `torchrun ... -m nexus train ...`        | `RANK` and `WORLD_SIZE`                         |
| `srun ... nexus train ...` (SLURM)       | `SLURM_PROCID` in a step of several tasks       |
| `nexus train --devices N`                | as torchrun: `start` sets the same variables    |

One process joins no group and pays nothing.
"""

import ctypes
import datetime
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

import torch
import torch.distributed as dist

from nexus.distributed import is_main, world_size
from nexus.errors import ConfigError, NexusError, RunError, SaidElsewhere
from nexus.log import logger

GRACE = 20.0
"""Seconds that the other processes get to end by themselves after one has failed."""
_FORWARDED = ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1")
_PARENT = "NEXUS_PARENT"


# -- how this process was started -----------------------------------------------------------------


def is_launched() -> bool:
    """Whether this process is one of several, or torchrun's only one."""
    return (dist.is_available() and dist.is_initialized()) or _environment(os.environ) is not None


def _environment(have: Mapping[str, str]) -> dict[str, str] | None:
    """torchrun's variables, from torchrun or made from SLURM's; None for a process on its own."""
    if "RANK" in have and "WORLD_SIZE" in have:
        rank, world = have["RANK"], have["WORLD_SIZE"]
        return {"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": have.get("LOCAL_RANK", rank)}
    # Inside sbatch without srun, SLURM_NTASKS is set as well, but there is one process.
    if int(have.get("SLURM_STEP_NUM_TASKS", "1")) < 2 or "SLURM_PROCID" not in have:
        return None
    local = re.match(r"\d+", have.get("SLURM_STEP_TASKS_PER_NODE", ""))
    return {
        "RANK": have["SLURM_PROCID"],
        "WORLD_SIZE": have["SLURM_STEP_NUM_TASKS"],
        "LOCAL_RANK": have.get("SLURM_LOCALID", "0"),
        "LOCAL_WORLD_SIZE": local[0] if local else have["SLURM_STEP_NUM_TASKS"],
        "MASTER_ADDR": have.get("MASTER_ADDR") or first_host(have.get("SLURM_STEP_NODELIST", "localhost")),
        "MASTER_PORT": have.get("MASTER_PORT") or str(20_000 + int(have.get("SLURM_JOB_ID", "0")) % 20_000),
    }


def first_host(hosts: str) -> str:
    """The first name in SLURM's list: `gpu[007-009,12],big1` begins with `gpu007`."""
    return re.sub(r"\[(\d+)[^\]]*\]", r"\1", re.split(r",(?![^\[]*\])", hosts)[0])


# -- meeting --------------------------------------------------------------------------------------


@contextmanager
def joined(timeout: float) -> Iterator[None]:
    """Within the block this process is a member of the run's process group, if there are several.

    Tensors travel by NCCL between GPUs and by gloo elsewhere. When another process ends or does not answer
    for `timeout` seconds, the block is left with a `RunError`, or a `SaidElsewhere` where the main process
    says it.
    """
    place = _environment(os.environ)
    if dist.is_initialized() or place is None or int(place["WORLD_SIZE"]) < 2:
        yield
        return
    os.environ.update(place)
    _end_with_parent()
    gpus = torch.cuda.is_available()
    if gpus:
        torch.cuda.set_device(int(place["LOCAL_RANK"]) % torch.cuda.device_count())
    _meet("cpu:gloo,cuda:nccl" if gpus else "gloo", timeout)
    level = logger.level
    logger.setLevel(level if is_main() else "CRITICAL")
    try:
        yield
    except NexusError as error:  # all processes agree on these, and the main one tells
        if is_main():
            raise
        raise SaidElsewhere(str(error)) from error
    except RuntimeError as error:
        if not _is_about_others(error):
            raise
        raise (RunError if is_main() else SaidElsewhere)(
            f"another process of the run ended, or did not answer for {timeout:g} seconds. Its own message, "
            "or the launcher's, says why; go on with `nexus train --resume`."
        ) from error
    else:
        dist.destroy_process_group()
    finally:
        logger.setLevel(level)


def _meet(backend: str, timeout: float) -> None:
    try:
        dist.init_process_group(backend, timeout=datetime.timedelta(seconds=timeout))
    except (RuntimeError, ValueError) as error:
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        first = str(error).partition("\n")[0]
        raise RunError(
            f"the {os.environ['WORLD_SIZE']} processes of the run did not meet at {where}: {first}. "
            f"Check that the "
            "first host is reachable from all others and the port free (MASTER_ADDR, MASTER_PORT)"
        ) from error


def _is_about_others(error: BaseException) -> bool:
    """Whether an error of a collective says that somebody else is gone; torch has no class for it."""
    text = f"{type(error).__name__} {error}".lower()
    signs = ("connection closed", "connection reset", "timed out", "timeout", "broken pipe", "nccl", "gloo")
    return any(sign in text for sign in signs)


def _end_with_parent() -> None:
    """Save and stop when the process that started this one is gone (Linux)."""
    if os.environ.get(_PARENT) and sys.platform == "linux":
        set_death_signal = 1
        ctypes.CDLL(None).prctl(set_death_signal, signal.SIGTERM)
        if os.getppid() != int(os.environ[_PARENT]):
            os.kill(os.getpid(), signal.SIGTERM)


def local_device(name: str) -> torch.device:
    """The device of this process: with several on GPUs, each has the one of its number."""
    device = torch.device(name)
    if device.type == "cuda" and world_size() > 1:
        return torch.device("cuda", torch.cuda.current_device())
    return device


def local_threads(wanted: int, processes_here: int) -> int:
    """CPU threads of this process: as wanted, else its share of the cores; 0 leaves torch's choice."""
    if wanted or processes_here == 1:
        return wanted
    return max(1, (os.cpu_count() or 1) // processes_here)


# -- starting -------------------------------------------------------------------------------------


def start(arguments: Sequence[str], processes: int) -> int:
    """Run `python -m nexus ARGUMENTS` in several processes of this machine, and return the exit code they
    share.

    Signals are passed on. When one fails the others are ended: its code is raised as `SaidElsewhere`, for
    it has told the user why; `RunError` if it was killed.
    """
    if processes < 2:
        raise ConfigError(f"{processes} processes are not several; leave out --devices")
    children = [
        subprocess.Popen(
            [sys.executable, "-m", "nexus", *arguments],
            env=_child_environment(rank, processes, port),
            start_new_session=True,  # a Ctrl-C of the terminal comes once, from here
        )
        for port in [_free_port()]
        for rank in range(processes)
    ]
    with _passing_on(children):
        try:
            return _wait(children)
        finally:
            _end(children)


def _child_environment(rank: int, processes: int, port: int) -> dict[str, str]:
    threads = max(1, (os.cpu_count() or 1) // processes)
    return {
        "OMP_NUM_THREADS": str(threads),
        **os.environ,
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        _PARENT: str(os.getpid()),
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(children: Sequence[subprocess.Popen]) -> int:
    """The exit code of all, or the error of the first that failed."""
    running, code = dict(enumerate(children)), 0
    while running:
        for index, child in list(running.items()):
            if child.poll() is None:
                continue
            del running[index]
            if child.returncode < 0:
                raise RunError(
                    f"process {index} of {len(children)} was ended by {_name(-child.returncode)}, "
                    f"so the others are "
                    "stopped too. Most often memory ran out: lower --batch-size or --devices. Go on with "
                    "`nexus train --resume`"
                )
            if child.returncode not in (0, 3):
                raise SaidElsewhere(f"process {index} of {len(children)} failed", child.returncode)
            code = max(code, child.returncode)
        time.sleep(0.05)
    return code


def _name(number: int) -> str:
    with suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"


def _end(children: Sequence[subprocess.Popen]) -> None:
    """End those that still run: they may save first, then they are killed."""
    for child in children:
        if child.poll() is None:
            child.terminate()
    deadline = time.monotonic() + GRACE
    for child in children:
        with suppress(subprocess.TimeoutExpired):
            child.wait(max(0.0, deadline - time.monotonic()))
        child.kill()
        child.wait()


@contextmanager
def _passing_on(children: Sequence[subprocess.Popen]) -> Iterator[None]:
    """Within the block signals for this process go to the children instead, who know what to do."""

    def pass_on(number: int, frame: FrameType | None) -> None:
        for child in children:
            if child.poll() is None:
                child.send_signal(number)

    numbers = [getattr(signal, name) for name in _FORWARDED if hasattr(signal, name)]
    try:
        before = {number: signal.signal(number, pass_on) for number in numbers}
    except ValueError:  # not the main thread: nobody sends signals here
        before = {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
