"""How a run of several processes is recognised and started, and what is said when one is lost."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nexus.errors import ConfigError
from nexus.training import processes, train
from nexus.training.auto import several_devices
from tests.training import runs

SLURM = {
    "SLURM_JOB_ID": "4711",
    "SLURM_NTASKS": "16",
    "SLURM_PROCID": "9",
    "SLURM_LOCALID": "1",
}
STEP = {
    "SLURM_STEP_NUM_TASKS": "16",
    "SLURM_STEP_TASKS_PER_NODE": "8(x2)",
    "SLURM_STEP_NODELIST": "gpu[007-008]",
}


def test_torchrun_is_recognised() -> None:
    found = processes._environment({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"})
    assert found == {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}


def test_a_step_of_slurm_is_recognised() -> None:
    found = processes._environment({**SLURM, **STEP})
    assert found == {
        "RANK": "9",
        "WORLD_SIZE": "16",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "8",
        "MASTER_ADDR": "gpu007",
        "MASTER_PORT": "24711",
    }


@pytest.mark.parametrize("have", [{}, SLURM, {**SLURM, **STEP, "SLURM_STEP_NUM_TASKS": "1"}])
def test_one_process_is_one_process(have: dict[str, str]) -> None:
    """Also inside sbatch, where SLURM_NTASKS counts what srun would start."""
    assert processes._environment(have) is None


@pytest.mark.parametrize(
    ("hosts", "first"),
    [("n1", "n1"), ("n1,n2", "n1"), ("gpu[007-009,12],big1", "gpu007"), ("a-[3,5],b", "a-3")],
)
def test_first_host(hosts: str, first: str) -> None:
    assert processes.first_host(hosts) == first


def test_auto_takes_one_process_on_a_cpu() -> None:
    assert several_devices({"compute": {"device": "cpu"}})[0] == 1
    assert several_devices({"compute": {"device": "cpu", "devices": "auto"}})[0] == 1
    assert several_devices({"compute": {"device": "cpu", "devices": 3}}) == (3, "as asked")


def test_auto_takes_as_many_gpus_as_the_batch_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 8)
    gpu = {"compute": {"device": "cuda"}}
    assert several_devices(gpu)[0] == 8
    assert several_devices({**gpu, "schedule": {"batch_size": 12}})[0] == 6
    assert several_devices({**gpu, "schedule": {"batch_size": 12, "accumulation": 2}})[0] == 6
    assert several_devices({**gpu, "compute": {"device": "cuda:1"}})[0] == 1


def test_a_batch_that_cannot_be_split_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"batch_size=4 cannot be split into compute\.devices=3"):
        runs.run(tmp_path / "run", compute__devices=3)
    assert not (tmp_path / "run").exists()


def command(out: Path, *more: str) -> subprocess.Popen[str]:
    settings = {**runs.SETTINGS, "schedule.steps": 4000, "checkpoint.every": 20, "log.every": 10}
    words = ["train", "--recipe", "smoke", "--data", runs.DATA, "--out", str(out), "--devices", "2", *more]
    return subprocess.Popen(
        [sys.executable, "-m", "nexus", *words, *(f"{k}={v}" for k, v in settings.items())],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def has_checkpoint(out: Path) -> bool:
    try:
        return any(out.glob("checkpoints/step_*"))
    except FileNotFoundError:  # --overwrite removes the earlier run's folder while it is looked into
        return False


def wait_for_checkpoint(out: Path) -> None:
    deadline = time.monotonic() + 120
    while not has_checkpoint(out):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task/{pid}/children")
    if not tasks.exists():
        pytest.skip("this system does not list the children of a process")
    return [int(word) for word in tasks.read_text().split()]


def test_two_processes_are_started_stopped_and_lost(tmp_path: Path) -> None:
    """A signal: saved, code 3. Then a process that is killed: one message, code 2, nobody left."""
    out = tmp_path / "run"
    with command(out) as started:
        wait_for_checkpoint(out)
        started.send_signal(signal.SIGTERM)
        said, _ = started.communicate(timeout=100)
    assert started.returncode == 3, said
    assert "on    2 × CPU (DDP, gloo, fp32), batch 4 = 2 × 2" in said
    assert said.count("stopped at step") == 1
    for checkpoint in (out / "checkpoints").iterdir():
        checkpoint.rename(tmp_path / checkpoint.name)
    with command(out, "--overwrite") as started:
        wait_for_checkpoint(out)
        ranks = children(started.pid)
        assert len(ranks) == 2
        os.kill(ranks[1], signal.SIGKILL)
        said, _ = started.communicate(timeout=100)
    assert started.returncode == 2, said
    assert said.count("nexus: ") <= 2
    assert "process 1 of 2 was ended by SIGKILL" in said
    assert not any(Path(f"/proc/{rank}").exists() for rank in ranks)
    assert train(resume=out, devices=1, overrides={"schedule.steps": 10}).finished
