"""Features that are kept: found again, not after any change, resumed after a kill, shared by processes."""

import os
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nexus.data.contents import content_digest, files_state
from nexus.data.datasets import open_dataset
from nexus.embedding import FeatureCache, cache, locks
from nexus.embedding.cache import human_bytes
from nexus.errors import ConfigError, DataError
from nexus.evals import evaluate
from nexus.features import View, extract
from tests.evals.stubs import MemoryImages, TinyBackbone

VIEW = View(size=32, batch_size=4)
LONG_AGO = time.time() - 3600


def network(seed: int = 3) -> TinyBackbone:
    torch.manual_seed(seed)
    return TinyBackbone().eval()


def folder_of_images(root: Path, count: int = 11, broken: tuple[int, ...] = (2, 5)) -> Path:
    rng = np.random.default_rng(0)
    for i in range(count):
        path = root / "ab"[i % 2] / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        if i in broken:
            path.write_bytes(b"no image")
        else:
            Image.fromarray(rng.integers(0, 256, (40, 44, 3), dtype=np.uint8)).save(path)
        os.utime(path, (LONG_AGO, LONG_AGO))
    return root


class Counting:
    """The images that a backbone has looked at."""

    def __init__(self, backbone: TinyBackbone) -> None:
        self.backbone = backbone

    def __call__(self) -> int:
        seen = sum(shape[0] for shape in self.backbone.shapes)
        self.backbone.shapes.clear()
        return seen


def same(found, expected) -> None:
    for name in ("cls", "mean_patch", "layer_cls", "labels"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    assert found.names == expected.names
    assert found.faults == expected.faults
    assert found.size == expected.size


@pytest.fixture
def store(tmp_path: Path) -> FeatureCache:
    return FeatureCache(tmp_path / "kept", 10**9)


@pytest.mark.parametrize("flip", [False, True])
def test_what_is_kept_is_what_extract_gives_bit_for_bit(
    store: FeatureCache, tmp_path: Path, flip: bool
) -> None:
    images, backbone = open_dataset(folder_of_images(tmp_path / "images")), network()
    seen = Counting(backbone)
    expected = extract(backbone, images, VIEW, layers=2, flip=flip)
    seen()
    for fresh in (True, False):
        found, patches = store.of(backbone, VIEW).table(images, layers=2, flip=flip)
        same(found, expected)
        assert patches is None
        assert seen() == (9 if fresh else 0)
    narrow, _ = store.of(backbone, VIEW).table(images, layers=1, flip=flip)
    assert seen() == 0, "a wider table serves"
    assert narrow.layer_cls.shape == (9, 1, 6)
    store.of(backbone, VIEW).table(images, layers=3, flip=flip)
    assert seen() == 9, "a narrower one does not"


def test_patches_are_kept_in_half_precision(store: FeatureCache, tmp_path: Path) -> None:
    images, backbone = open_dataset(folder_of_images(tmp_path / "images")), network()
    for _ in range(2):
        found, patches = store.of(backbone, VIEW).table(images, patches=True)
        assert patches.shape == (9, 16, 6)
        assert patches.dtype == torch.float16
        torch.testing.assert_close(patches.float().mean(1), found.mean_patch, atol=1e-3, rtol=1e-3)
    assert sum(shape[0] for shape in backbone.shapes) == 9


def test_any_change_is_noticed_and_a_renamed_folder_is_the_same(store: FeatureCache, tmp_path: Path) -> None:
    root, backbone = folder_of_images(tmp_path / "images"), network()
    seen = Counting(backbone)

    def look(view: View = VIEW, network: TinyBackbone = backbone, where: Path = root) -> int:
        store.of(network, view).table(open_dataset(where))
        return Counting(network)()

    assert look() == 9
    assert look() == 0
    moved = tmp_path / "moved"
    shutil.copytree(root, moved)
    (moved / "a").rename(moved / "c")
    assert look(where=moved) == 9, "other classes, another order"
    (moved / "c").rename(moved / "a")
    assert look(where=moved) == 0
    for settings in ({"size": 24}, {"resize": 40}, {"mean": (0.1, 0.2, 0.3)}, {"precision": "bf16"}):
        assert look(View(**{"size": 32, "batch_size": 4, **settings})) == 9, settings
    assert look(network=network(4)) == 9
    with torch.no_grad():
        backbone.blocks[0].weight[0, 0] += 1e-4
    assert look() == 9
    assert seen() == 0


def test_an_image_that_changed_on_the_disk_is_looked_at_again(store: FeatureCache, tmp_path: Path) -> None:
    """Same size, same modification time: only the inode's own time tells."""
    root, backbone = folder_of_images(tmp_path / "images"), network()
    keeper = store.of(backbone, VIEW)
    before, _ = keeper.table(open_dataset(root))
    path = root / "a" / "04.png"
    data = bytearray(path.read_bytes())
    Image.fromarray(255 - np.asarray(Image.open(path))).save(tmp_path / "other.png")
    other = (tmp_path / "other.png").read_bytes()
    data[:] = other[: len(data)].ljust(len(data), b"\0")
    path.write_bytes(bytes(data))
    os.utime(path, (LONG_AGO, LONG_AGO))
    after, _ = keeper.table(open_dataset(root))
    same(after, extract(backbone, open_dataset(root), VIEW))
    assert not torch.equal(before.cls, after.cls)


def test_digests_are_remembered_only_of_files_that_have_settled(tmp_path: Path, monkeypatch) -> None:
    root, memory = folder_of_images(tmp_path / "images"), tmp_path / "memory"
    images = open_dataset(root)
    assert files_state(images) is None, "the inodes are two seconds young"
    first = content_digest(images, memory)
    assert not memory.exists()
    monkeypatch.setattr("nexus.data.contents._SETTLED", -(10**10))
    assert content_digest(images, memory) == first
    assert len(list(memory.iterdir())) == 1
    monkeypatch.setattr("nexus.data.contents._image", None)  # must not be asked
    assert content_digest(images, memory) == first
    (root / "a" / "00.png").touch()
    with pytest.raises(TypeError):
        content_digest(open_dataset(root), memory)


@pytest.mark.parametrize("kind", ["zip", "list", "arrays", "joined", "subset"])
def test_sources_of_every_kind_have_digests(tmp_path: Path, kind: str) -> None:
    root = folder_of_images(tmp_path / "images")

    def source():
        if kind == "zip":
            return open_dataset(shutil.make_archive(str(tmp_path / "x"), "zip", root))
        if kind == "list":
            (tmp_path / "l.txt").write_text("images/a/00.png\nimages/b/01.png\n")
            return open_dataset(tmp_path / "l.txt")
        if kind == "arrays":
            np.save(tmp_path / "x.npy", np.asarray(Image.open(root / "a" / "00.png"))[None].repeat(2, 0))
            return open_dataset(tmp_path / "x.npy")
        if kind == "joined":
            return open_dataset([root / "a", root / "b"])
        return open_dataset(root).subset([0, 4])

    first = content_digest(source())
    assert content_digest(source()) == first
    Image.new("RGB", (9, 9)).save(root / "a" / "00.png")
    assert content_digest(source()) != first


def test_labels_are_those_of_now(store: FeatureCache, tmp_path: Path) -> None:
    root = folder_of_images(tmp_path / "images", broken=())
    lists = []
    for name, labels in (("one", "xy"), ("two", "yx")):
        lists.append(tmp_path / f"{name}.csv")
        rows = [f"images/{'ab'[i % 2]}/{i:02d}.png,{labels[i % 2]}" for i in range(11)]
        lists[-1].write_text("path,label\n" + "\n".join(rows))
    backbone = network()
    first, second = (store.of(backbone, VIEW).table(open_dataset(path))[0] for path in lists)
    assert sum(shape[0] for shape in backbone.shapes) == 11
    assert torch.equal(first.labels, 1 - second.labels)
    assert root.is_dir()


def test_a_stopped_table_goes_on(store: FeatureCache, tmp_path: Path, caplog) -> None:
    images, backbone = open_dataset(folder_of_images(tmp_path / "images")), network()
    expected = extract(backbone, images, VIEW)
    seen = Counting(backbone)
    seen()

    def stop(done: int, total: int) -> None:
        if backbone.shapes and done >= 8:
            raise KeyboardInterrupt

    keeper = store.of(backbone, VIEW)
    with pytest.raises(KeyboardInterrupt):
        keeper.table(images, progress=stop)
    assert seen() == 7
    with caplog.at_level("INFO", logger="nexus"):
        found, _ = keeper.table(images)
    assert "going on with the features at image 8 of 11" in caplog.text
    assert seen() == 2
    same(found, expected)


KILLED = """
    import os, signal, sys, torch
    from pathlib import Path
    from nexus.data.datasets import open_dataset
    from nexus.embedding import FeatureCache, partial
    from tests.test_feature_cache import VIEW, network
    partial.COMMIT_SECONDS = 0
    def die(done, total):
        if done == 8 and backbone.shapes:
            os.kill(os.getpid(), signal.SIGKILL)
    backbone = network()
    FeatureCache(Path(sys.argv[1]), 10**9).of(backbone, VIEW).table(open_dataset(sys.argv[2]), progress=die)
"""


def test_kill_nine_costs_little(store: FeatureCache, tmp_path: Path) -> None:
    root, backbone = folder_of_images(tmp_path / "images"), network()
    words = [sys.executable, "-c", textwrap.dedent(KILLED), str(store.folder), str(root)]
    assert subprocess.run(words, timeout=120).returncode == -9
    found, _ = store.of(backbone, VIEW).table(open_dataset(root))
    assert sum(shape[0] for shape in backbone.shapes) <= 7
    same(found, extract(backbone, open_dataset(root), VIEW))


def test_two_at_once_compute_once(store: FeatureCache, tmp_path: Path, caplog) -> None:
    root = folder_of_images(tmp_path / "images")
    backbones, found = [network(), network()], [None, None]
    gate = threading.Event()

    def wait(done: int, total: int) -> None:
        gate.set()
        time.sleep(0.15)

    def work(i: int) -> None:
        found[i] = store.of(backbones[i], VIEW).table(open_dataset(root), progress=None if i else wait)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    with caplog.at_level("INFO", logger="nexus"):
        threads[0].start()
        gate.wait(20)
        threads[1].start()
        for thread in threads:
            thread.join()
    assert sum(shape[0] for backbone in backbones for shape in backbone.shapes) == 9
    same(found[0][0], found[1][0])


def test_a_damaged_table_is_computed_again(store: FeatureCache, tmp_path: Path, caplog) -> None:
    images, backbone = open_dataset(folder_of_images(tmp_path / "images")), network()
    keeper = store.of(backbone, VIEW)
    expected, _ = keeper.table(images)
    expected_cls = expected.cls.clone()
    (table,) = store.folder.glob("*.l1")
    for file, content in (("layer_cls.raw", b"short"), ("state.json", b"{"), ("state.json", b"{}")):
        (table / file).write_bytes(content)
        found, _ = keeper.table(images)
        assert torch.equal(found.cls, expected_cls)
    assert "damaged" in caplog.text


def test_what_was_used_longest_ago_goes(tmp_path: Path) -> None:
    images = open_dataset(folder_of_images(tmp_path / "images"))
    one = FeatureCache(tmp_path / "one", 10**9)
    one.of(network(), VIEW).table(images)
    size = one.evict("")[1]
    store = FeatureCache(tmp_path / "kept", int(2.5 * size))
    first, second, third = (store.of(network(seed), VIEW) for seed in (1, 2, 3))
    first.table(images)
    second.table(images)
    for age, path in enumerate(sorted(store.folder.glob("*.l1"), key=lambda p: p.stat().st_mtime)):
        os.utime(path / "state.json", (LONG_AGO + age, LONG_AGO + age))
    first.table(images)  # so the second is the one that was used longest ago
    third.table(images)
    for keeper, there in ((first, True), (third, True), (second, False)):
        keeper.backbone.shapes.clear()
        keeper.table(images)
        assert (not keeper.backbone.shapes) is there


def test_nothing_readable_is_said_as_ever(store: FeatureCache, tmp_path: Path) -> None:
    images = open_dataset(folder_of_images(tmp_path / "images", count=4, broken=(0, 1, 2, 3)))
    with pytest.raises(DataError, match=r"none of the 4 images can be read; the first: a/00.png"):
        store.of(network(), VIEW).table(images)
    assert not list(store.folder.glob("*.l1*"))


def test_where_it_cannot_be_used_a_line_says_why(tmp_path: Path, caplog, monkeypatch) -> None:
    images, backbone = open_dataset(folder_of_images(tmp_path / "images")), network()
    assert FeatureCache(tmp_path / "k", 10**9).of(backbone, VIEW).table(MemoryImages(4)) is None
    with caplog.at_level("INFO", logger="nexus"):
        assert FeatureCache(tmp_path / "k", 10).of(backbone, VIEW).table(images) is None
        assert "features are not kept: they take 528 bytes, the cache may have 10 bytes" in caplog.text
        monkeypatch.setattr(cache, "locked", lambda *words: (_ for _ in ()).throw(OSError("no locks here")))
        assert FeatureCache(tmp_path / "k", 10**9).of(backbone, VIEW).table(images) is None
        assert "is not used: no locks here" in caplog.text
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is a file"):
        FeatureCache.at(tmp_path / "file")
    monkeypatch.setenv("NEXUS_FEATURES_GB", "many")
    with pytest.raises(ConfigError, match="NEXUS_FEATURES_GB"):
        FeatureCache.at(None)
    assert FeatureCache.at("off") is None


def test_locks_tell_whether_they_are_held(tmp_path: Path) -> None:
    path = tmp_path / "locks" / "x"
    assert not locks.is_locked(path)
    with locks.locked(path, "testing"):
        assert locks.is_locked(path)
    assert not locks.is_locked(path)


def test_evaluations_find_the_features_of_the_one_before(tmp_path: Path) -> None:
    root, backbone = folder_of_images(tmp_path / "images", count=24), network()
    settings = {"size": 32, "device": "cpu", "baseline": False, "linear": {"min_steps": 3, "epochs": 1}}
    seen = Counting(backbone)
    first = evaluate(root, backbone, "linear", **settings)
    assert seen() == 22
    again = evaluate(root, backbone, "knn,linear", **settings)
    assert seen() == 0
    assert again["linear"] == first["linear"]
    off = evaluate(root, backbone, "knn,linear", cache="off", **settings)
    assert seen() == 22
    assert off == again


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 bytes"), (999, "999 bytes"), (1500, "1.5 kB"), (2e13, "20 TB")]
)
def test_sizes_for_people(count: float, text: str) -> None:
    assert human_bytes(int(count)) == text
