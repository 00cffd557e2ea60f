"""A run of two processes: resumed exactly, stopped together, alive when a disk refuses."""

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nexus import checkpoint
from nexus.data.loading.pool import LoaderError
from nexus.distributed import rank
from nexus.errors import NexusError
from nexus.training import agreement, loop
from tests.distributed.launch import run_processes
from tests.training import runs

HARD = {
    "schedule__steps": 8,
    "schedule__batch_size": 8,
    "schedule__accumulation": 2,
    "model__depth": 2,
    "model__drop_path_rate": 0.4,
    "checkpoint__every": 3,
    "log__every": 2,
    "online_eval__every": 4,
}


class Stopped(Exception):
    """What stands for a power cut."""


def before_step(number: int, act: Callable[[], None]) -> None:
    """Do something in this process when the `number`-th step begins."""
    calls, original = iter(range(1, 1000)), loop.train_step

    def patched(*arguments: Any, **keywords: Any) -> Any:
        if next(calls) == number:
            act()
        return original(*arguments, **keywords)

    loop.train_step = patched


def stop() -> None:
    raise Stopped


# -- exactly as if nothing had happened -----------------------------------------------------------

KINDS = ("ddp", "fsdp")


def whole_and_broken_runs(folder: Path) -> None:
    """For each kind a run that is left alone, and one that dies in its sixth step and goes on."""
    step = loop.train_step
    for kind in KINDS:
        settings = {**HARD, "compute__parallel": kind, "data__workers": 1}
        assert runs.run(folder / f"{kind} whole", **settings).finished
        before_step(6, stop)
        with pytest.raises(Stopped):
            runs.run(folder / f"{kind} broken", **settings)
        loop.train_step = step
        assert runs.resume(folder / f"{kind} broken", data__workers=0).finished


def test_a_resumed_run_is_bit_identical(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run_processes(whole_and_broken_runs, 2, tmp_path, tmp_path)
    assert "find_unused_parameters" not in capfd.readouterr().err, "advice of torch that we know better"
    for kind in KINDS:
        whole, broken = tmp_path / f"{kind} whole", tmp_path / f"{kind} broken"
        assert runs.fingerprint(broken) == runs.fingerprint(whole)
        assert runs.lines(broken) == runs.lines(whole)
        evals = [path.name for path in sorted((broken / "evals").iterdir())]
        assert evals == ["step_0000004.json", "step_0000008.json"]


def first_steps(out: Path, settings: dict[str, Any]) -> bool:
    return runs.run(out, **settings).finished


def next_steps(out: Path, settings: dict[str, Any]) -> bool:
    return runs.resume(out, **settings).finished


def test_two_then_one_then_four_processes(tmp_path: Path) -> None:
    """The state goes on whatever number of processes reads it; without stochastic depth the losses agree.

    The rate is small, so that AdamW's steps of full size on gradients of rounding stay small too; KoLeo,
    steep where features are nearly equal, would make them large.
    """
    still = {"model__drop_path_rate": 0.0, "log__every": 1, "optim__warmup_steps": 7, "optim__lr": 1e-4}
    still["objective__koleo_weight"] = 0.0
    first = {**HARD, **still, "schedule__steps": 3}
    out, alone = tmp_path / "run", tmp_path / "alone"
    two = {**first, "compute__parallel": "fsdp"}
    assert run_processes(first_steps, 2, tmp_path, out, two) == [True, True]
    assert runs.resume(out, schedule__steps=5, compute__devices=1).finished
    assert run_processes(next_steps, 4, tmp_path, out, {"schedule__steps": 7}) == [True] * 4
    runs.run(alone, **first)
    for steps in (5, 7):
        runs.resume(alone, schedule__steps=steps)
    assert len(runs.lines(out)) == 7
    for one, many in zip(runs.lines(alone), runs.lines(out), strict=True):
        assert many == pytest.approx(one, rel=0.02), one["step"]


# -- together -------------------------------------------------------------------------------------


def endings(folder: Path) -> dict[str, tuple[int, bool, str]]:
    """Step, whether finished, and the error, of runs with some trouble in process 1."""
    return {trouble: ending(folder / trouble, begin) for trouble, begin in TROUBLE.items()}


def ending(out: Path, begin: Callable[[], None]) -> tuple[int, bool, str]:
    before = loop.train_step, agreement.islice, checkpoint._my_checksums
    if rank() == 1:
        begin()
    try:
        result = runs.run(out, **HARD)
    except NexusError as error:
        return loaded_step(out), False, str(error)
    finally:
        loop.train_step, agreement.islice, checkpoint._my_checksums = before  # type: ignore[attr-defined]
    return result.step, result.finished, ""


def loaded_step(out: Path) -> int:
    newest = checkpoint.latest(out / "checkpoints")
    return checkpoint.step_of(newest) if newest else 0


def send_signal() -> None:
    before_step(5, lambda: os.kill(os.getpid(), signal.SIGUSR1))


def lose_a_worker() -> None:
    calls, original = iter(range(1, 1000)), agreement.islice

    def dying(*arguments: Any) -> Any:
        if next(calls) == 5:
            raise LoaderError("a process that reads images died")
        return original(*arguments)

    agreement.islice = dying  # type: ignore[attr-defined]


def spoil_a_loss() -> None:
    def poison() -> None:
        original = torch.nn.LayerNorm.forward
        torch.nn.LayerNorm.forward = lambda self, x: original(self, x) * float("nan")  # type: ignore[method-assign]
        before_step(1, lambda: setattr(torch.nn.LayerNorm, "forward", original))

    before_step(4, poison)


def fill_the_disk() -> None:
    original = checkpoint._my_checksums

    def refuse(folder: Path) -> dict[str, str]:
        if "0000003" in folder.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(folder)

    checkpoint._my_checksums = refuse


TROUBLE = {
    "signal": send_signal,
    "worker": lose_a_worker,
    "not finite": spoil_a_loss,
    "full disk": fill_the_disk,
}


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, tuple[int, bool, str]]]]:
    folder = tmp_path_factory.mktemp("runs")
    return folder, run_processes(endings, 2, folder, folder)


@pytest.mark.parametrize(
    ("trouble", "end", "said"),
    [
        ("signal", (5, False, ""), "SIGUSR1: saved at step 5"),
        ("worker", (4, False, "a process that reads images died"), "stopped: saved at step 4"),
        ("not finite", (8, True, ""), "in process 1 not finite"),
        ("full disk", (8, True, ""), "the checkpoint of step 3 could not be written"),
    ],
)
def test_trouble_in_one_process(ended: Any, trouble: str, end: tuple[int, bool, str], said: str) -> None:
    """All stop at the same step, or all go on; the log of the run says what happened."""
    folder, ranks = ended
    assert [rank[trouble] for rank in ranks] == [end, end]
    assert said in runs.log(folder / trouble)
    assert loaded_step(folder / trouble) == end[0]


def test_a_full_disk_leaves_the_other_checkpoints(ended: Any) -> None:
    folder, _ = ended
    found = checkpoint.list_checkpoints(folder / "full disk" / "checkpoints")
    assert [path.name for path in found] == ["step_0000006", "step_0000008"]
