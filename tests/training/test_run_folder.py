"""The rules of the run folder: nothing of the user's is lost, nothing starts over by itself."""

import csv
import errno
import os
import sys
from pathlib import Path

import pytest

from nexus.data.batch import Fault
from nexus.errors import ConfigError, RunError
from nexus.training import train
from nexus.training.run import FaultList, RunFolder
from tests.training import runs


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_what_a_run_leaves(tmp_path):
    result = runs.run(tmp_path / "a", schedule__steps=2, online_eval__every=2)
    assert result.finished
    assert result.last["step"] == 2
    assert {path.name for path in result.folder.path.iterdir() if not path.name.startswith(".")} == {
        "config.yaml",
        "config.json",
        "model.safetensors",
        "student.safetensors",
        "metrics.jsonl",
        "log.txt",
        "checkpoints",
        "evals",
    }
    assert [path.name for path in result.folder.evals.iterdir()] == ["step_0000002.json"]


def test_the_saved_configuration_repeats_the_run(tmp_path):
    runs.run(tmp_path / "a", schedule__steps=2)
    runs.train(out=tmp_path / "b", config=tmp_path / "a" / "config.yaml")
    assert runs.fingerprint(tmp_path / "a") == runs.fingerprint(tmp_path / "b")


@pytest.mark.parametrize(("steps", "progress"), [(2, "finished, 2 steps"), (9, "step 2 of 9")])
def test_a_run_is_never_started_over_silently(tmp_path, steps, progress):
    out = tmp_path / "a"
    runs.run(out, schedule__steps=2)
    (out / "config.yaml").write_text((out / "config.yaml").read_text().replace("steps: 2", f"steps: {steps}"))
    before = tree(out)
    with pytest.raises(RunError, match=rf"already holds a run \({progress}\).*--resume.*--overwrite"):
        runs.run(out, schedule__steps=2)
    assert tree(out) == before


def test_overwrite_replaces_a_run_and_leaves_what_is_not_of_a_run(tmp_path):
    out, fresh = tmp_path / "a", tmp_path / "b"
    runs.run(out, schedule__steps=4, seed=1, online_eval__every=1)
    (out / "notes.txt").write_text("mine")
    runs.run(out, overwrite=True, schedule__steps=2)
    runs.run(fresh, schedule__steps=2)
    assert (out / "notes.txt").read_text() == "mine"
    assert runs.fingerprint(out) == runs.fingerprint(fresh)
    assert tree(out).keys() - tree(fresh).keys() == {"notes.txt"}


@pytest.mark.parametrize(
    "files",
    [
        {"thesis.tex": "years of work"},
        {"config.yaml": "database: production\n", "checkpoints/best.pt": "precious"},
        {"config.yaml": "{ not yaml"},
    ],
)
def test_overwrite_touches_nothing_but_runs(tmp_path, files):
    out = tmp_path / "a"
    for name, text in files.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(text)
    before = tree(out)
    for overwrite in (False, True):
        with pytest.raises(RunError, match="is not empty and holds no run; choose another --out"):
            runs.run(out, overwrite=overwrite)
    assert tree(out) == before


def test_a_link_to_a_run_folder_can_be_overwritten(tmp_path):
    runs.run(tmp_path / "real", schedule__steps=2)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert runs.run(tmp_path / "link", overwrite=True, schedule__steps=1).finished
    assert (tmp_path / "link").is_symlink()


def test_traces_of_a_start_that_was_killed_are_no_run(tmp_path):
    out = tmp_path / "a"
    (out / "evals").mkdir(parents=True)
    (out / ".config.yaml.writing").write_text("half")
    assert runs.run(out, schedule__steps=1).finished


def test_files_in_the_way(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match="is a file; --out names the folder"):
        runs.run(tmp_path / "file")
    with pytest.raises(RunError, match="cannot be written: Not a directory"):
        runs.run(tmp_path / "file" / "run")


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.ENOSPC])
@pytest.mark.parametrize("where", ["pathlib.Path.mkdir", "nexus.checkpoint.write_atomic"])
def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch, code, where):
    def refuse(*_, **__):
        raise OSError(code, "the disk says no")

    monkeypatch.setattr(where, refuse)
    with pytest.raises(RunError, match=r"cannot be written: the disk says no. Mend the permissions"):
        runs.run(tmp_path / "a")


def test_resume_needs_a_run(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(RunError, match=r"holds no run to resume: there is no config\.yaml"):
            runs.resume(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"model__depth": 2},
        {"objective__out_dim": 32},
        {"objective__separate_patch_head": True},
        {"objective__centering": "sinkhorn_knopp"},
    ],
)
def test_another_architecture_cannot_be_resumed(tmp_path, change):
    out = tmp_path / "a"
    runs.run(out, schedule__steps=4)
    before = tree(out)
    with pytest.raises(RunError, match=r"belongs to another model: .*Resume without changes") as error:
        runs.resume(out, schedule__steps=6, **change)
    assert len(str(error.value)) < 600
    after = {name: content for name, content in tree(out).items() if name not in ("log.txt", ".lock")}
    assert after == {name: content for name, content in before.items() if name in after}
    assert runs.resume(out, schedule__steps=6).finished


def test_a_typo_at_resume_changes_nothing(tmp_path):
    runs.run(tmp_path / "a", schedule__steps=2)
    before = tree(tmp_path / "a")
    with pytest.raises(ConfigError, match=r"did you mean 'schedule.steps'"):
        runs.resume(tmp_path / "a", schedule__stepz=4)
    assert tree(tmp_path / "a") == before


def test_fault_list_names_each_image_once_over_resumes(tmp_path):
    path = tmp_path / "unreadable.csv"
    odd = b"caf\xe9.png".decode("utf-8", "surrogateescape")
    first = [Fault("a, b.png", 'says "no"'), Fault(odd, "empty file"), Fault("a, b.png", "again")]
    FaultList(path).add(first)
    again = FaultList(path)
    again.add([*first, Fault("new\nline.png", "truncated")])
    assert len(again) == 3
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["a, b.png", "caf\\udce9.png", "new\nline.png"]
    assert len(FaultList(path)) == 3


def test_progress_in_words(tmp_path):
    folder = RunFolder(tmp_path)
    folder.write_settings("schedule: {steps: 7}\n")
    assert folder.progress() == "step 0 of 7"


def test_the_log_holds_what_was_found_in_the_data(tmp_path: Path) -> None:
    """It was said before there was a folder to keep it in; a resumed run says it again."""
    out = tmp_path / "run"
    overrides = {"schedule.steps": 1, "online_eval.every": 0}
    train("synthetic:n=16,size=32", out, recipe="smoke", overrides=overrides)
    first = (out / "log.txt").read_text().splitlines()
    assert "found 16 images, median 32 x 32, RGB 100 %" in first[0]
    assert sum("found 16 images" in line for line in first) == 1
    train(resume=out, overrides={"schedule.steps": 2})
    later = (out / "log.txt").read_text().splitlines()[len(first) :]
    assert "found 16 images" in later[0]
    assert "resuming" in later[1]


def test_a_run_needs_nothing_that_only_unix_has(tmp_path, monkeypatch):
    """Windows: no `resource`, no `fcntl`, no libc by name, and folders that cannot be opened."""
    opened = os.open

    def refuse_folders(path, *arguments, **keywords):
        if Path(path).is_dir():
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, *arguments, **keywords)

    for name in ("resource", "fcntl"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr("ctypes.CDLL", lambda name: (_ for _ in ()).throw(OSError(name)))
    monkeypatch.setattr(os, "open", refuse_folders)
    result = runs.run(tmp_path / "a", schedule__steps=2)
    assert result.finished
    assert result.last["peak_memory"] == 0.0
    assert runs.resume(tmp_path / "a", schedule__steps=3).finished
