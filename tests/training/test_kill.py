"""Kills and signals: whatever happens to the process, the run ends with the same weights."""

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest

from nexus.data.loading.pool import MAX_DEATHS
from nexus.errors import RunError
from tests.training import runs

# Everything that could carry state from step to step: stochastic depth, accumulation, labels, a log
# interval that is no multiple of the checkpoint's, more positions than images.
HARD = {
    "schedule__steps": 60,
    "schedule__accumulation": 2,
    "model__depth": 2,
    "model__drop_path_rate": 0.4,
    "checkpoint__every": 3,
    "log__every": 4,
    "online_eval__every": 10,
}


def evals(out: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted((out / "evals").iterdir())}


def appeared(out: Path, pattern: str) -> bool:
    """Whether such a file is there, or was until a moment ago."""
    try:
        return any(out.glob(pattern))
    except FileNotFoundError:  # a folder that was listed got its name while it was looked into
        return True


def kill_somewhere(child: runs.Child, out: Path, rng: random.Random) -> bool:
    """SIGKILL after some steps: at a random moment, or in the middle of writing. False: it had ended."""
    alive = child.wait_for_steps(rng.randint(1, 6))
    if rng.random() < 0.5:
        time.sleep(rng.uniform(0.0, 0.08))
    else:
        pattern = rng.choice(["checkpoints/.writing-*", ".*.writing", "checkpoints/.writing-*/*"])
        deadline = time.monotonic() + 0.5
        while time.monotonic() < deadline and not appeared(out, pattern):
            pass
    child.signal(signal.SIGKILL)
    child.join()
    return alive


@pytest.mark.slow
def test_twenty_kills_change_nothing(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    with runs.start(whole, **HARD) as child:
        assert child.join(120) == 0
    rng = random.Random(7)
    with runs.start(killed, **HARD) as child:
        assert kill_somewhere(child, killed, rng)
    for kill in range(1, 20):
        with runs.Child("train", "--resume", str(killed)) as child:
            assert kill_somewhere(child, killed, rng), f"only {kill} kills before the end of the run"
    with runs.Child("train", "--resume", str(killed)) as child:
        assert child.join(120) == 0
    assert runs.fingerprint(killed) == runs.fingerprint(whole)
    assert runs.lines(killed) == runs.lines(whole)
    assert evals(killed) == evals(whole)


@pytest.mark.parametrize(
    ("number", "workers"),
    [
        (signal.SIGINT, "fork"),
        (signal.SIGTERM, "fork"),
        (signal.SIGHUP, "fork"),
        (signal.SIGINT, "forkserver"),
    ],
)
def test_a_signal_saves_first_then_the_run_goes_on(tmp_path, number, workers):
    out = tmp_path / "run"
    settings = {"schedule__steps": 5000, "checkpoint__every": 4000, "data__engine": "cpu"}
    with runs.start(out, workers=workers, data__workers=2, **settings) as child:
        assert child.wait_for_steps(3)
        child.signal(number)  # reaches the loader workers too
        assert child.join() == 3
    saved = json.loads(next(out.glob("checkpoints/step_*/state.json")).read_text())["step"]
    assert 2 <= saved < 4000
    assert f"{number.name}: saved at step {saved}; go on with `nexus train --resume {out}`" in runs.log(out)
    result = runs.resume(out, schedule__steps=saved + 2, data__workers=0)
    assert (result.finished, result.step) == (True, saved + 2)


def test_a_second_interrupt_stops_at_once(tmp_path):
    with runs.start(tmp_path / "run", step_seconds=20) as child:
        assert child.wait_for_steps(1)
        child.signal(signal.SIGINT)
        time.sleep(0.2)
        child.signal(signal.SIGINT)
        assert child.join(30) == 130
    assert not list((tmp_path / "run").glob("checkpoints/*"))


def test_dead_workers_are_replaced_until_there_are_too_many_and_nothing_is_lost(tmp_path):
    out = tmp_path / "run"
    with runs.start(
        out, schedule__steps=100_000, checkpoint__every=90_000, data__workers=2, data__engine="cpu"
    ) as child:
        assert child.wait_for_steps(3)
        killed: set[int] = set()
        while len(killed) <= MAX_DEATHS and child.process.is_alive():
            if fresh := [pid for pid in _children(child.process.pid) if pid not in killed]:
                os.kill(fresh[0], signal.SIGKILL)
                killed.add(fresh[0])
            time.sleep(0.1)
        assert child.join(60) == 2
        assert not any(_alive(pid) for pid in killed)
    assert runs.log(out).count("it is replaced") == MAX_DEATHS
    assert "saved at step" in runs.log(out)
    step = int(next(out.glob("checkpoints/step_*")).name.removeprefix("step_"))
    assert runs.resume(out, schedule__steps=step + 1, data__workers=0).finished


def _alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def _children(pid: int) -> list[int]:
    """Processes whose parent is `pid`."""
    tasks = Path(f"/proc/{pid}/task/{pid}/children")
    if not tasks.exists():
        pytest.skip("this system does not list the children of a process")
    return [int(word) for word in tasks.read_text().split()]


def test_only_one_process_may_train_in_a_folder(tmp_path):
    out = tmp_path / "run"
    with runs.start(out, schedule__steps=100_000) as child:
        assert child.wait_for_steps(1)
        for attempt in (lambda: runs.resume(out), lambda: runs.run(out, overwrite=True)):
            with pytest.raises(RunError, match="another process is training"):
                attempt()
    assert runs.resume(out, schedule__steps=2).finished
