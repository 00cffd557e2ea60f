"""Checkpoints: what is kept, what is ignored, and what happens to damaged ones."""

import json
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nexus import checkpoint
from nexus.errors import RunError


def tensors(value: float) -> dict[str, torch.Tensor]:
    return {"w": torch.full((3, 2), value), "step": torch.tensor(value)}


def save(folder: Path, *steps: int, keep: int = 10) -> None:
    for step in steps:
        checkpoint.save(folder, step, tensors(step), {"note": f"of {step}"}, keep)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_round_trip(tmp_path):
    """Values and tensors come back exactly, into the tensors that are given."""
    state = {
        "half": torch.randn(5).to(torch.bfloat16),
        "double": torch.randn(2, 3, dtype=torch.float64),
        "odd": torch.tensor([0.0, -0.0, float("nan"), float("inf"), 1e-45]),
        "flag": torch.tensor([True, False]),
        "none": torch.zeros(0, 4),
    }
    path = checkpoint.save(tmp_path, 12, state, {"scale": 0.1}, 1)
    empty = {name: torch.zeros_like(value) for name, value in state.items()}
    targets = dict(empty)
    assert checkpoint.load(path, empty) == {"scale": 0.1, "step": 12}
    for name, value in state.items():
        assert empty[name] is targets[name]
        assert torch.equal(value.view(torch.uint8), empty[name].view(torch.uint8)), name


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=5, unique=True), st.integers(1, 4))
def test_the_newest_are_kept(tmp_path_factory, steps, keep):
    """Saved in ascending order, as a run does; numbers of any length sort as numbers."""
    folder = tmp_path_factory.mktemp("keep")
    save(folder, *sorted(steps), keep=keep)
    assert [checkpoint.step_of(path) for path in checkpoint.list_checkpoints(folder)] == sorted(steps)[-keep:]
    assert checkpoint.step_of(checkpoint.latest(folder)) == max(steps)
    assert len(names(folder)) == min(keep, len(steps))


def test_what_is_no_checkpoint_is_ignored_and_leftovers_go(tmp_path):
    save(tmp_path, 1)
    (tmp_path / ".writing-step_0000002").mkdir()
    (tmp_path / ".writing-step_0000002" / "state.json").write_text('{"step": 2}')
    (tmp_path / ".old-step_0000000").mkdir()
    (tmp_path / "step_0000003").mkdir()  # nothing in it
    (tmp_path / "step_best").mkdir()
    (tmp_path / "step_best" / "state.json").write_text("{}")
    assert [path.name for path in checkpoint.list_checkpoints(tmp_path)] == ["step_0000001"]
    save(tmp_path, 4)
    assert names(tmp_path) == ["step_0000001", "step_0000003", "step_0000004", "step_best"]
    assert checkpoint.latest(tmp_path / "nowhere") is None
    assert checkpoint.load_newest(tmp_path / "nowhere", tensors(0)) is None


def test_saving_a_step_again_replaces_it(tmp_path):
    save(tmp_path, 1, 2)
    checkpoint.save(tmp_path, 2, tensors(7), {}, 10)
    state = tensors(0)
    assert checkpoint.load_newest(tmp_path, state) == {"step": 2}
    assert state["w"].unique() == 7
    assert names(tmp_path) == ["step_0000001", "step_0000002"]


def flip(file: Path, position: float) -> None:
    content = bytearray(file.read_bytes())
    content[int(position * len(content))] ^= 16
    file.write_bytes(content)


DAMAGES = {
    "flipped bit in the tensors": lambda path: flip(path / "__0_0.distcp", 0.5),
    "flipped bit in the index": lambda path: flip(path / ".metadata", 0.5),
    "truncated tensors": lambda path: os.truncate(path / "__0_0.distcp", 100),
    "no tensors": lambda path: (path / "__0_0.distcp").unlink(),
    "no index": lambda path: (path / ".metadata").unlink(),
    "empty state": lambda path: (path / "state.json").write_text(""),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(tmp_path, caplog, damage):
    save(tmp_path, 5, 6)
    damage(tmp_path / "step_0000006")
    state = tensors(0)
    assert checkpoint.load_newest(tmp_path, state) == {"note": "of 5", "step": 5}
    assert state["w"].unique() == 5
    assert state["step"] == 5
    assert "step_0000006 is damaged" in caplog.text
    assert "Going on from step 5 instead." in caplog.text
    assert checkpoint.step_of(checkpoint.latest(tmp_path)) == 5
    save(tmp_path, 6, keep=1)
    assert names(tmp_path) == ["step_0000006"]
    assert checkpoint.load_newest(tmp_path, state) == {"note": "of 6", "step": 6}


def test_nothing_but_damaged_checkpoints(tmp_path):
    save(tmp_path, 5, 6)
    for name in names(tmp_path):
        flip(tmp_path / name / "__0_0.distcp", 0.3)
    with pytest.raises(
        RunError, match=r"no checkpoint in .* can be read.*--overwrite.*step_0000006 is damaged"
    ):
        checkpoint.load_newest(tmp_path, tensors(0))
    assert names(tmp_path) == ["step_0000005", "step_0000006"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("w"), "w is new to this configuration"),
        (lambda state: state.update(extra=torch.zeros(1)), "it has no extra"),
        (lambda state: state.update(w=torch.zeros(2, 2)), r"w is \(3, 2\) in it and \(2, 2\) now"),
    ],
)
def test_another_model_is_one_clear_error(tmp_path, change, message):
    """It is no damage: the one before would not fit either, and nothing is moved."""
    save(tmp_path, 5, 6)
    state = tensors(0)
    change(state)
    with pytest.raises(RunError, match=f"step_0000006 belongs to another model: {message}. Resume without"):
        checkpoint.load_newest(tmp_path, state)
    assert names(tmp_path) == ["step_0000005", "step_0000006"]


@pytest.mark.parametrize("function", ["dcp.save", "write_atomic", "sync_folder"])
def test_a_full_disk_leaves_earlier_checkpoints(tmp_path, monkeypatch, function):
    save(tmp_path, 1)

    def refuse(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(f"nexus.checkpoint.{function}", refuse)
        with pytest.raises(RunError, match=r"step 2 could not be written.*No space left.*are intact"):
            save(tmp_path, 2, keep=1)
    assert names(tmp_path) == ["step_0000001"]
    save(tmp_path, 3, keep=1)
    assert names(tmp_path) == ["step_0000003"]


def test_ctrl_c_in_the_middle_of_saving_is_ctrl_c(tmp_path, monkeypatch):
    """torch wraps whatever is raised inside into an error of its own."""

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("torch.distributed.checkpoint.FileSystemWriter.write_data", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, 1)
    assert checkpoint.latest(tmp_path) is None


def test_small_files_are_old_or_new(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    checkpoint.write_atomic(path, "old")
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "full")))
        with pytest.raises(OSError, match="full"):
            checkpoint.write_atomic(path, "new")
    assert path.read_text() == "old"
    checkpoint.write_atomic(path, json.dumps("é"))
    assert json.loads(path.read_text(encoding="utf-8")) == "é"


def test_append_is_all_or_nothing(tmp_path):
    import resource

    path = tmp_path / "a.txt"
    checkpoint.append(path, "one\n")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8, hard))
    try:
        with pytest.raises(OSError, match="could be written"):
            checkpoint.append(path, "something longer\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    checkpoint.append(path, "two\n")
    assert path.read_text() == "one\ntwo\n"
