"""Exactness without signals: the same tensors at any number of workers, and after any interruption."""

import pytest
import torch

from nexus.training import loop
from nexus.training.saving import Saver
from tests.training import runs


class Stopped(Exception):
    """What stands for a power cut in these tests."""


def interrupt_at(monkeypatch, step: int) -> None:
    """Let the run die in the `step`-th call of `train_step`, before anything of it is done."""
    calls = iter(range(1, 1000))
    original = loop.train_step

    def dying(*args, **keywords):
        if next(calls) == step:
            raise Stopped
        return original(*args, **keywords)

    monkeypatch.setattr(loop, "train_step", dying)


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, id="defaults"),
        pytest.param({"model__drop_path_rate": 0.5, "model__depth": 2}, id="stochastic depth"),
        pytest.param({"objective__centering": "sinkhorn_knopp"}, id="sinkhorn"),
        pytest.param({"objective__separate_patch_head": True, "schedule__accumulation": 2}, id="patch head"),
        pytest.param({"compute__precision": "bf16"}, id="bf16"),
        pytest.param({"optim__optimizer": "muon"}, id="muon"),
        pytest.param(
            {"compute__precision": "fp16", "schedule__steps": 16, "checkpoint__every": 3}, id="fp16"
        ),
        pytest.param({"log__every": 4, "checkpoint__every": 3}, id="records span checkpoints"),
        pytest.param({"data__engine": "cpu"}, id="crops on the CPU"),
        pytest.param({"data__engine": "device", "schedule__accumulation": 2}, id="colours on the device"),
    ],
)
def test_interrupted_twice_equals_uninterrupted(tmp_path, monkeypatch, settings):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    runs.run(whole, **settings)
    for attempt, calls in ((runs.run, 4), (runs.resume, 3)):
        with monkeypatch.context() as patch:
            interrupt_at(patch, calls)
            with pytest.raises(Stopped):
                attempt(parts, **(settings if attempt is runs.run else {}))
    assert runs.resume(parts).finished
    assert runs.fingerprint(parts) == runs.fingerprint(whole)
    assert runs.lines(parts) == runs.lines(whole)
    assert runs.restored(parts).tensors["optimizer.student_head.mlp.0.bias.step"] >= 5


def test_the_fingerprint_tells_runs_apart(tmp_path):
    for name, seed in (("a", 0), ("b", 1)):
        runs.run(tmp_path / name, seed=seed, schedule__steps=2)
    a, b = (runs.fingerprint(tmp_path / name) for name in "ab")
    assert all(a[key] != b[key] for key in ("model", "student", "state"))


def test_workers_change_nothing(tmp_path):
    for workers in (0, 2):
        runs.run(tmp_path / str(workers), data__workers=workers, data__engine="cpu")
    assert runs.fingerprint(tmp_path / "0") == runs.fingerprint(tmp_path / "2")
    assert runs.lines(tmp_path / "0") == runs.lines(tmp_path / "2")


def test_accumulation_moves_the_centre_alike(tmp_path):
    """One step: the same images and weights give the same centre, in one part or two."""
    centres = []
    for parts in (1, 2):
        out = tmp_path / str(parts)
        settings = {"schedule__accumulation": parts, "objective__ibot_weight": 0.0}
        runs.run(out, schedule__steps=1, **settings)
        centres.append(runs.restored(out).model.center)
    assert centres[0].abs().max() > 0
    torch.testing.assert_close(centres[0], centres[1], rtol=1e-4, atol=1e-7)


def test_more_steps_than_planned(tmp_path, caplog):
    """A finished run is left alone; with a larger number of steps it goes on."""
    out = tmp_path / "run"
    runs.run(out, schedule__steps=4)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    with caplog.at_level("INFO", "nexus"):
        result = runs.resume(out)
    assert (result.finished, result.step, result.last["step"]) == (True, 4, 4)
    assert "is finished: 4 steps" in caplog.text
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == before
    assert runs.resume(out, schedule__steps=6).step == 6
    assert [line["step"] for line in runs.lines(out)] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("victim", ["_backbones", "_checkpoint"])
def test_killed_between_backbones_and_checkpoint(tmp_path, monkeypatch, victim):
    """The checkpoint comes last: whoever finds it finds its backbones; others make both again."""
    out, whole = tmp_path / "run", tmp_path / "whole"
    runs.run(whole)
    original = getattr(Saver, victim)

    def dying(saver, *arguments):
        if saver.state.step == 6:
            raise Stopped
        original(saver, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Saver, victim, dying)
        with pytest.raises(Stopped):
            runs.run(out)
    assert runs.resume(out).finished
    assert runs.fingerprint(out) == runs.fingerprint(whole)


def test_precision_may_change_at_resume(tmp_path):
    out = tmp_path / "run"
    runs.run(out, schedule__steps=2)
    for steps, precision in ((4, "fp16"), (6, "fp32"), (8, "fp16")):
        assert runs.resume(out, schedule__steps=steps, compute__precision=precision).step == steps


def test_initial_weights_are_not_needed_again(tmp_path):
    runs.run(tmp_path / "first", schedule__steps=2)
    runs.run(tmp_path / "second", schedule__steps=2, model__init=str(tmp_path / "first"))
    for file in (tmp_path / "first").glob("*.safetensors"):
        file.unlink()
    assert runs.resume(tmp_path / "second", schedule__steps=3).finished


def test_data_that_changed_are_announced(tmp_path, caplog):
    out = tmp_path / "run"
    runs.run(out, schedule__steps=2)
    runs.resume(out, schedule__steps=3, data__source="synthetic:n=30,size=32,classes=2")
    assert "the data held 22 images when the run was saved and hold 30 now" in caplog.text


def test_results_of_steps_that_are_repeated_are_dropped(tmp_path, monkeypatch):
    """Evaluations and metrics after the checkpoint belong to a future that did not happen."""
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        interrupt_at(patch, 6)
        with pytest.raises(Stopped):
            runs.run(out, online_eval__every=1, checkpoint__every=3)
    assert len(list(out.glob("evals/step_*.json"))) == 5
    assert [line["step"] for line in runs.lines(out)] == [1, 2, 3, 4, 5]
    runs.resume(out, schedule__steps=4, online_eval__every=0)
    assert len(list(out.glob("evals/step_*.json"))) == 3
    assert [line["step"] for line in runs.lines(out)] == [1, 2, 3, 4]
