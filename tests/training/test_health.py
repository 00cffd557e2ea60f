"""The health panel while training: it changes nothing, repeats exactly, warns once, and stops on request."""

import json
from pathlib import Path

import pytest

from nexus import cli
from nexus.errors import IllRun
from tests.distributed.launch import run_processes
from tests.training import runs
from tests.training.test_exact import Stopped, interrupt_at

LOOKS = {"health__every": 2, "health__images": 16}
NO_RATE = {"optim__lr": 0.0, "optim__min_lr": 0.0, "schedule__steps": 30, "checkpoint__every": 100}


def test_the_weights_are_the_same_with_it_and_without(tmp_path: Path) -> None:
    runs.run(tmp_path / "with", model__drop_path_rate=0.3, model__depth=2, **LOOKS)
    off = {"health__every": 0, "health__policy": "off"}
    runs.run(tmp_path / "without", model__drop_path_rate=0.3, model__depth=2, **off)
    assert runs.fingerprint(tmp_path / "with") == runs.fingerprint(tmp_path / "without")
    looked = [line for line in runs.lines(tmp_path / "with") if "health/rankme" in line]
    assert [line["step"] for line in looked] == [1, 2, 4, 6]
    assert not any(key.startswith("health/") for line in runs.lines(tmp_path / "without") for key in line)
    same = [
        {k: v for k, v in line.items() if not k.startswith("health/")}
        for line in runs.lines(tmp_path / "with")
    ]
    assert same == runs.lines(tmp_path / "without")


def test_a_resumed_run_sees_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs.run(tmp_path / "whole", **LOOKS)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 4)
        with pytest.raises(Stopped):
            runs.run(tmp_path / "parts", **LOOKS)
    assert runs.resume(tmp_path / "parts").finished
    assert runs.lines(tmp_path / "parts") == runs.lines(tmp_path / "whole")


def test_a_step_between_logged_ones_is_logged_for_its_look(tmp_path: Path) -> None:
    runs.run(tmp_path / "a", log__every=4, health__every=3, health__images=8)
    steps = {line["step"]: "health/lidar" in line for line in runs.lines(tmp_path / "a")}
    assert steps == {1: True, 3: True, 4: False, 6: True}


def test_an_illness_is_warned_of_once_also_when_the_run_goes_on(tmp_path: Path) -> None:
    runs.run(tmp_path / "a", **NO_RATE, **LOOKS)
    assert runs.log(tmp_path / "a").count("health: no-learning-rate: lr=0 for the last 15 steps") == 1
    runs.resume(tmp_path / "a", schedule__steps=40)
    assert (
        runs.log(tmp_path / "a").count("WARNING")
        == runs.log(tmp_path / "a").count("no-learning-rate: lr")
        == 1
    )


def test_the_policy_stop_saves_and_ends_with_4(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    with pytest.raises(IllRun, match=r"stopped by health\.policy=stop: no-learning-rate"):
        runs.run(tmp_path / "a", **NO_RATE, health__policy="stop")
    assert runs.restored(tmp_path / "a").step == 15
    resumed = ["train", "--resume", str(tmp_path / "a"), "health.policy=stop"]
    assert cli.run(resumed) == 4
    assert "Go on all the same with health.policy=warn" in capfd.readouterr().err
    assert runs.resume(tmp_path / "a", health__policy="warn").finished


def test_the_policy_off_says_nothing(tmp_path: Path) -> None:
    runs.run(tmp_path / "a", **NO_RATE, health__policy="off")
    assert "no-learning-rate" not in runs.log(tmp_path / "a")


def looked_at_in_two(folder: Path) -> list[dict]:
    """A run of two processes, and what they logged."""
    runs.run(folder / "two", compute__devices=2, compute__timeout=60, **LOOKS)
    return runs.lines(folder / "two")


def test_two_processes_see_what_one_sees(tmp_path: Path) -> None:
    """At the same weights, which they have after the first step, whose rate is 0; later the gradient's sum is
    rounded otherwise."""
    ranks = run_processes(looked_at_in_two, 2, tmp_path, tmp_path)
    runs.run(tmp_path / "one", **LOOKS)
    alone = runs.lines(tmp_path / "one")
    assert ranks[0] == ranks[1]
    signs = {key for key in alone[0] if key.startswith("health/")}
    assert len(signs) > 15
    assert {key: ranks[0][0][key] for key in signs} == {key: alone[0][key] for key in signs}
    looks = [[line["step"] for line in lines if "health/lidar" in line] for lines in (ranks[0], alone)]
    assert looks[0] == looks[1] == [1, 2, 4, 6]


def test_doctor_of_a_run_with_a_look(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    runs.run(tmp_path / "a", health__every=0)
    assert cli.run(["doctor", str(tmp_path / "a"), "--look"]) == 0
    said = capfd.readouterr().out
    assert "healthy: no illness found at step 6" in said
    facts = json.loads((tmp_path / "a" / "doctor.json").read_text())
    assert facts["ill"] is False
    assert facts["steps"] == 6
    assert "health/rankme" in {vital["key"] for vital in facts["vitals"]}
    assert (tmp_path / "a" / "doctor.png").stat().st_size > 10_000


def test_doctor_of_an_ill_run_and_of_nothing(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    log = tmp_path / "metrics.jsonl"
    log.write_text(
        "".join(f'{{"step": {s}, "loss": 1.0, "lr": 0.0}}\n' for s in range(0, 2000, 10)) + "{half"
    )
    assert cli.run(["doctor", str(log), "--out", str(tmp_path / "there")]) == 1
    said = capfd.readouterr().out
    assert "ill: no-learning-rate: lr=0" in said
    assert "1 damaged line skipped" in said
    assert json.loads((tmp_path / "there" / "doctor.json").read_text())["name"] == "no-learning-rate"
    assert cli.run(["doctor", str(tmp_path / "there")]) == 2
    assert "holds no log" in capfd.readouterr().err
