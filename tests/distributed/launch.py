"""Several gloo processes on this machine, each running one function, for tests of collectives.

def worker(scale):                       # at module level: it travels by name
    return scale * distributed.rank()

assert run_processes(worker, 2, tmp_path, 10) == [0, 10]
"""

import multiprocessing
import os
import pickle
import sys
import time
import traceback
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"


def run_processes(
    function: Callable[..., Any],
    processes: int,
    folder: Path,
    *arguments: Any,
    timeout: float = 120.0,
) -> list[Any]:
    """What `function(*arguments)` returned in each of `processes` ranks, in rank order.

    The ranks meet through a file in `folder` and talk over the loopback interface. The first
    exception of any rank is raised here, with the traceback of that rank as a note; the other ranks
    are then ended. `TimeoutError` after `timeout` seconds.
    """
    place = Path(folder) / f"ranks-{time.monotonic_ns()}"
    place.mkdir(parents=True)
    context = multiprocessing.get_context("spawn")
    ranks = [
        context.Process(target=_rank, args=(function, rank, processes, place, arguments))
        for rank in range(processes)
    ]
    for process in ranks:
        process.start()
    try:
        _wait(ranks, place, time.monotonic() + timeout)
    finally:
        for process in ranks:
            process.kill()
            process.join()
    return [_outcome(place, rank)[1] for rank in range(processes)]


def _wait(ranks: list[BaseProcess], place: Path, deadline: float) -> None:
    """Return when every rank has ended well; raise at the first one that has not."""
    running = set(range(len(ranks)))
    while running:
        ended = {rank for rank in running if ranks[rank].exitcode is not None}
        for rank in sorted(ended):
            error, _ = _outcome(place, rank)
            if error is not None:
                raise error
        running -= ended
        if time.monotonic() > deadline:
            raise TimeoutError(f"ranks {sorted(running)} did not end in time")
        time.sleep(0.02)


def _outcome(place: Path, rank: int) -> tuple[Exception | None, Any]:
    """The error, or the returned value, that a rank left behind."""
    file = place / f"{rank}.pickle"
    if not file.exists():
        return RuntimeError(f"rank {rank} ended without a result"), None
    outcome: tuple[Exception | None, Any] = pickle.loads(file.read_bytes())
    return outcome


def _rank(function: Callable[..., Any], rank: int, processes: int, place: Path, arguments: tuple) -> None:
    """Body of one process: join the group, run, leave the outcome in a file."""
    os.environ.update(
        GLOO_SOCKET_IFNAME=LOOPBACK,
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(processes),
        LOCAL_WORLD_SIZE=str(processes),
    )
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    outcome: tuple[Exception | None, Any]
    try:
        meeting = f"file://{place / 'meeting'}"
        dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=processes)
        outcome = None, function(*arguments)
        dist.barrier()
        dist.destroy_process_group()
    except Exception as error:
        error.add_note(f"in rank {rank}:\n{traceback.format_exc()}")
        outcome = error, None
    _leave(place / f"{rank}.pickle", outcome)
    if outcome[0] is not None:
        os._exit(1)  # without waiting for ranks that still wait for this one


def _leave(file: Path, outcome: tuple[Exception | None, Any]) -> None:
    """Write the outcome; what cannot be pickled is described instead."""
    try:
        data = pickle.dumps(outcome)
        pickle.loads(data)
    except Exception:
        data = pickle.dumps((RuntimeError("\n".join(traceback.format_exception(outcome[0]))), None))
    partial = file.with_suffix(".partial")
    partial.write_bytes(data)
    partial.replace(file)
