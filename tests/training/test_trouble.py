"""Full disks, hostile data, numbers that are not finite: training goes on, or says why it cannot."""

import csv
import errno
import logging
import resource
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from nexus import checkpoint
from nexus.errors import DataError, RunError
from nexus.training import loop
from nexus.training.saving import Saver
from tests.data.test_hostile_folder import GOOD, folder  # noqa: F401
from tests.training import runs

# -- full disk ------------------------------------------------------------------------------------


def before_step(monkeypatch, actions: dict[int, object]) -> None:
    """Call `actions[n]` before the n-th step."""
    calls = iter(range(1, 1000))
    original = loop.train_step

    def step(*args, **keywords):
        actions.get(next(calls), lambda: None)()
        return original(*args, **keywords)

    monkeypatch.setattr(loop, "train_step", step)


def save_at_once(monkeypatch) -> None:
    """Let training wait for each save, so that the disk is full for the one that is meant."""
    begin = Saver.begin

    def begin_and_wait(saver):
        begin(saver)
        saver._finish()

    monkeypatch.setattr(Saver, "begin", begin_and_wait)


def limit_files(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def test_a_disk_that_is_full_for_a_while(tmp_path, monkeypatch, caplog):
    """For real: the system refuses files of more than 50,000 bytes while step 4 is saved."""
    out, whole = tmp_path / "run", tmp_path / "whole"
    runs.run(whole)
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    earlier = []

    def fill():
        earlier.extend((out / "checkpoints" / "step_0000002").iterdir())
        limit_files(50_000)

    save_at_once(monkeypatch)
    before_step(monkeypatch, {4: fill, 5: lambda: limit_files(unlimited)})
    try:
        assert runs.run(out).finished
    finally:
        limit_files(unlimited)
    errors = [r.message for r in caplog.records if (r.name, r.levelno) == ("nexus", logging.ERROR)]
    assert len(errors) == 2
    assert "weights could not be written" in errors[0]
    assert "checkpoint of step 4 could not be written" in errors[1]
    assert all(message.endswith("at the next checkpoint.") and len(message) < 500 for message in errors)
    assert earlier
    assert all(path.exists() for path in earlier)
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["step_0000002", "step_0000006"]
    assert runs.fingerprint(out) == runs.fingerprint(whole)


def test_a_disk_that_stays_full_ends_with_an_error_and_the_last_checkpoint(tmp_path, monkeypatch):
    out = tmp_path / "run"
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    save_at_once(monkeypatch)
    before_step(monkeypatch, {3: lambda: limit_files(50_000)})
    try:
        with pytest.raises(RunError, match="could not be written"):
            runs.run(out)
    finally:
        limit_files(unlimited)
    assert runs.resume(out).finished


def test_small_files_that_cannot_be_written(tmp_path, monkeypatch, caplog):
    """Metrics, list of faults, evaluations: none of them is worth a run."""
    (tmp_path / "imgs").mkdir()
    for i in range(6):
        Image.new("RGB", (40, 40), (40 * i, 9, 9)).save(tmp_path / "imgs" / f"{i}.png")
    (tmp_path / "imgs" / "bad.png").write_text("text")

    def refuse(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "append", refuse)
    assert runs.run(tmp_path / "run", tmp_path / "imgs").finished
    for name in ("metrics.jsonl", "unreadable.csv"):
        assert f"{name} could not be written: No space left on device. Training goes on." in caplog.text


def test_an_evaluation_that_fails_is_reported(tmp_path, monkeypatch, caplog):
    def fail(*_, **__):
        raise DataError("no image left")

    monkeypatch.setattr("nexus.evals.knn.knn_result", fail)
    assert runs.run(tmp_path / "run", online_eval__every=3).finished
    assert "step 3  k-NN failed: no image left. Training goes on." in caplog.text


# -- hostile data ---------------------------------------------------------------------------------


def listed(out: Path) -> dict[str, str]:
    with (out / "unreadable.csv").open(newline="", encoding="utf-8") as file:
        return {row["name"]: row["reason"] for row in csv.DictReader(file)}


@pytest.mark.parametrize("workers", [0, 2])
def test_hostile_folder(tmp_path, folder, workers):  # noqa: F811
    out = tmp_path / "run"
    assert runs.run(out, folder, data__max_unreadable=0.95, data__workers=workers).finished
    reasons = {
        "truncated.jpg": "truncated JPEG",
        "text.png": "not an image",
        "empty.jpeg": "empty file",
        "strip.png": "aspect ratio",
        "bomb.png": "2,500,000,000 pixels",
        "dot.png": "2 x 2 pixels",
        "self.png": "symbolic link loop",
        "selfdir": "symbolic link loop",
        "sub/up": "symbolic link loop",
        "here": "symbolic link loop",
        "gone.webp": "broken symbolic link",
        "pipe.png": "not a regular file",
    }
    found = listed(out)
    assert found.keys() == reasons.keys()
    assert not found.keys() & set(GOOD)
    assert all(found[name].startswith(reason) for name, reason in reasons.items())
    assert "  12 unreadable  " in runs.log(out)
    runs.resume(out, schedule__steps=10)
    assert listed(out) == found


def images(root: Path, good: int, bad: int) -> Path:
    root.mkdir()
    for i in range(good):
        Image.new("RGB", (40, 40), (40 * i, 9, 9)).save(root / f"good{i}.png")
    for i in range(bad):
        png = root / f"bad{i}.png"
        Image.effect_noise((40, 40), 90).save(png)
        png.write_bytes(png.read_bytes()[:300])  # a sound header
    return root


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_unreadable_images_are_refused(tmp_path, workers):
    data, out = images(tmp_path / "imgs", good=6, bad=30), tmp_path / "run"
    with pytest.raises(DataError, match=r"more than data\.max_unreadable=0\.5") as error:
        runs.run(out, data, data__workers=workers, schedule__steps=50)
    assert str(out / "unreadable.csv") in str(error.value)
    assert listed(out)
    assert all(name.startswith("bad") for name in listed(out))
    assert runs.resume(out, schedule__steps=8, data__max_unreadable=0.99).finished


@pytest.mark.parametrize("workers", [0, 2])
def test_nothing_but_unreadable_images(tmp_path, workers):
    data, out = images(tmp_path / "imgs", good=0, bad=9), tmp_path / "run"
    with pytest.raises(DataError, match="images in a row cannot be used; the last was bad") as error:
        runs.run(out, data, data__workers=workers)
    assert "Traceback" not in str(error.value)
    assert len(str(error.value)) < 400
    assert len(listed(out)) == 9


# -- not finite -----------------------------------------------------------------------------------


def poison(monkeypatch, bad: set[int], where: str = "pixels") -> list[tuple[int, bool]]:
    """Plant a NaN in the pixels or one loss term of some steps; returns (step, whether anything moved)."""
    moved: list[tuple[int, bool]] = []
    original, calls = loop.train_step, iter(range(1, 1000))

    def step(model, micro_batches, optimizer, *args, **keywords):
        number = next(calls)
        with monkeypatch.context() as patch:
            if number in bad and where == "pixels":
                first, *rest = micro_batches
                crops = first.global_crops.clone()
                crops[0, 0, 0, 0] = torch.nan
                micro_batches = [replace(first, global_crops=crops), *rest]
            elif number in bad:
                patch.setattr("nexus.models.ssl.objective.koleo_loss", lambda x: x.sum() * torch.nan)
            before = [tensor.clone() for tensor in everything(model, optimizer)]
            metrics = original(model, micro_batches, optimizer, *args, **keywords)
        after = everything(model, optimizer)
        moved.append((number, any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))))
        return metrics

    monkeypatch.setattr(loop, "train_step", step)
    return moved


def everything(model, optimizer) -> list[torch.Tensor]:
    moments = [value for state in optimizer.state.values() for value in state.values()]
    return [*model.state_dict().values(), *model.buffers(), *moments]


@pytest.mark.parametrize(("where", "term"), [("pixels", "loss/dino_global"), ("koleo", "loss/koleo")])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_bad_step_changes_nothing_and_is_named(tmp_path, monkeypatch, caplog, where, term, precision):
    moved = poison(monkeypatch, {3}, where)
    settings = {"compute__precision": precision, "schedule__accumulation": 2, "log__every": 3}
    result = runs.run(tmp_path / "run", **settings)
    assert result.finished
    assert dict(moved) == {1: True, 2: True, 3: False, 4: True, 5: True, 6: True}
    skipped = [record.message for record in caplog.records if "skipped" in record.message]
    assert len(skipped) == 1
    assert skipped[0].startswith("step 3 skipped")
    assert term in skipped[0]
    if where == "koleo":
        assert "loss/ibot" not in skipped[0]
    by_step = {line["step"]: line for line in runs.lines(tmp_path / "run")}
    assert by_step[3]["finite"] == pytest.approx(1 / 2)
    assert by_step[3]["loss"] > 0
    assert by_step[6]["finite"] == 1.0


def test_fp16_lowers_its_loss_scale_until_steps_are_finite(tmp_path, monkeypatch, caplog):
    """The first steps overflow by design and are no reason to stop; a NaN in the loss is."""
    moved = poison(monkeypatch, {18}, "koleo")
    out = tmp_path / "run"
    assert runs.run(out, compute__precision="fp16", schedule__steps=20, log__max_bad_steps=2).finished
    skipped = [number for number, anything in moved if not anything]
    assert (skipped[0], skipped[-1]) == (1, 18)
    assert len(skipped) < 15, "the scale comes to rest; a late overflow or two may follow"
    scales = [line["loss_scale"] for line in runs.lines(out)]
    assert scales[0] == 2**15
    assert scales[-1] == 2.0 ** (16 - len(skipped))
    last = [r.message for r in caplog.records if "skipped" in r.message][-1]
    assert last.startswith("step 18 skipped: loss")


def test_many_bad_steps_end_the_run_with_a_cause(tmp_path, monkeypatch):
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        poison(patch, set(range(4, 100)))
        with pytest.raises(RunError, match=r"3 steps in a row were not finite \(loss.*step 6.*--resume"):
            runs.run(out, schedule__steps=20, log__max_bad_steps=3)
    assert all(tensor.isfinite().all() for tensor in runs.restored(out).tensors.values())
    assert runs.resume(out, schedule__steps=10).finished
