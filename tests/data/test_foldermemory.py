"""A large folder is searched once; whatever changes below it is seen at the next start."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nexus.data.datasets import folder, foldermemory, open_dataset
from tests.data.making import png


@pytest.fixture
def searches(monkeypatch, tmp_path_factory) -> list[Path]:
    """The folders that were searched; every folder counts as large."""
    monkeypatch.setenv("NEXUS_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr(foldermemory, "WORTHWHILE", 1)
    done: list[Path] = []

    def search(root: Path, *rest):
        done.append(root)
        return original(root, *rest)

    original = folder.list_files
    monkeypatch.setattr(folder, "list_files", search)
    return done


@pytest.fixture
def root(tmp_path) -> Path:
    for name in ("cat/a.png", "cat/deep/b.png", "dog/c.png", "dog/notes.txt"):
        path = tmp_path / "imgs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(0))
    settle(tmp_path / "imgs")
    return tmp_path / "imgs"


def settle(root: Path) -> None:
    """Let every folder look as if it had last changed long ago."""
    for place, _, _ in os.walk(root):
        os.utime(place, (1e9, 1e9))


def summary(root: Path, split: str | None = None) -> tuple:
    data = open_dataset(root, split)
    labels = None if data.labels is None else data.labels.tolist()
    return [data.name(i) for i in range(len(data))], labels, data.classes, data.description, data.faults


def test_the_second_start_does_not_search(root, searches):
    first = summary(root)
    assert first[:3] == (["cat/a.png", "cat/deep/b.png", "dog/c.png"], [0, 0, 1], ("cat", "dog"))
    assert summary(root) == first
    assert len(searches) == 1


def move(root: Path) -> None:
    (root / "cat/deep/b.png").rename(root / "cat/deep/z.png")


CHANGES: dict[str, Callable[[Path], object]] = {
    "added": lambda root: (root / "cat/deep/new.png").write_bytes(png(1)),
    "removed": lambda root: (root / "cat/deep/b.png").unlink(),
    "renamed": move,
    "new folder": lambda root: (root / "dog/more").mkdir(),
    "folder gone": lambda root: shutil.rmtree(root / "cat/deep"),
    "folder renamed": lambda root: (root / "cat").rename(root / "cow"),
    "moved within": lambda root: (root / "cat/a.png").rename(root / "dog/a.png"),
    "linked": lambda root: (root / "cat/link.png").symlink_to(root / "dog/c.png"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changes_anywhere_are_seen(root, searches, change):
    summary(root)
    CHANGES[change](root)
    changed = summary(root)
    assert len(searches) == 2
    shutil.rmtree(foldermemory.cache_folder())
    assert summary(root) == changed


def test_what_changed_a_moment_ago_is_not_remembered(root, searches):
    """A file added within the clock tick of the search would go unnoticed."""
    (root / "cat/new.png").write_bytes(png(1))
    now = time.time()
    os.utime(root / "cat", (now, now))
    assert summary(root) == summary(root)
    assert len(searches) == 2
    os.utime(root / "cat", (now - 3, now - 3))
    assert summary(root) == summary(root)
    assert len(searches) == 3


def test_splits_are_remembered_apart(tmp_path, searches):
    for name in ("train/cat/a.png", "train/dog/b.png", "val/dog/c.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(0))
    settle(tmp_path)
    first = [summary(tmp_path, split) for split in ("train", "val", None)]
    assert [summary(tmp_path, split) for split in ("train", "val", None)] == first
    assert len(searches) == 3
    assert first[1][1] == [1]
    (tmp_path / "train/ant").mkdir()  # numbers the classes anew, in val too
    (tmp_path / "train/ant/d.png").write_bytes(png(0))
    assert summary(tmp_path, "val")[1] == [2]


def test_broken_links_and_linked_folders_are_asked_again(root, searches, tmp_path):
    far = tmp_path / "far"
    (root / "dog/later.png").symlink_to(tmp_path / "not yet.png")
    far.mkdir()
    (far / "x.png").write_bytes(png(0))
    (root / "linked").symlink_to(far)
    settle(root)
    settle(far)
    first = summary(root)
    assert [fault.name for fault in first[4]] == ["dog/later.png"]
    assert summary(root) == first
    assert len(searches) == 1
    (tmp_path / "not yet.png").write_bytes(png(0))
    assert "dog/later.png" in summary(root)[0]
    settle(root)
    summary(root)
    (far / "y.png").write_bytes(png(0))
    assert "linked/y.png" in summary(root)[0]


def test_a_damaged_memory_is_no_memory(root, searches):
    first = summary(root)
    (kept,) = (foldermemory.cache_folder() / "folders").iterdir()
    for damage in (b"", kept.read_bytes()[:300], b"PK nonsense"):
        kept.write_bytes(damage)
        assert summary(root) == first
    assert len(searches) == 4


def test_a_cache_that_cannot_be_written_is_no_error(root, searches, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("NEXUS_CACHE", str(tmp_path / "file"))
    assert summary(root) == summary(root)
    assert len(searches) == 2
