"""Every source that `open_dataset` takes, its labels, splits, names, faults and error messages."""

import gzip
import io
import json
import multiprocessing
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nexus.data.datasets import ImageDataset, available_splits, open_dataset, scan
from nexus.data.datasets.tarindex import index_tar
from nexus.data.images import ImageLimits, decode_image
from nexus.errors import DataError, ImageError

PACKS = Path(__file__).resolve().parents[2] / "../shared/data"


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("NEXUS_CACHE", str(folder))
    return folder


def png(level: int) -> bytes:
    """A 9 x 10 grey picture; its level tells pictures apart."""
    file = io.BytesIO()
    Image.new("L", (9, 10), level).save(file, "PNG")
    return file.getvalue()


def level(data: ImageDataset, i: int) -> int:
    return data[i].image.getpixel((0, 0))[0]


def names(data: ImageDataset) -> list[str]:
    return [data.name(i) for i in range(len(data))]


def tree(root: Path, files: list[str]) -> Path:
    """Files below `root`; images get their position as grey level."""
    for i, name in enumerate(files):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(i))
    return root


def tar(path: Path, files: dict[str, bytes], mode: str = "w", **options) -> Path:
    with tarfile.open(path, mode, **options) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def error(spec, **options) -> str:
    with pytest.raises(DataError) as caught:
        open_dataset(spec, **options)
    return str(caught.value)


# --- folders -------------------------------------------------------------------------------------


def test_folder_with_classes(tmp_path):
    data = open_dataset(tree(tmp_path, ["dog/b.png", "cat/a.png", "dog/deep/c.PNG"]))
    assert names(data) == ["cat/a.png", "dog/b.png", "dog/deep/c.PNG"]
    assert data.classes == ("cat", "dog")
    assert data.labels.tolist() == [0, 1, 1]
    assert data.labels.dtype == np.int64
    sample = data[2]
    assert (sample.name, sample.index, sample.label, sample.image.mode) == ("dog/deep/c.PNG", 2, 1, "RGB")
    assert data.description == f"folder {tmp_path}/, 3 images in 2 classes"


@pytest.mark.parametrize(
    "files",
    [
        ["a.png", "b.png"],
        ["cat/a.png", "cat/b.png"],
        ["cat/a.png", "dog/b.png", "c.png"],
        ["images/a.png", "masks/a.png"],
        ["train/a.png", "dog/a.png"],
    ],
)
def test_folders_that_are_not_classes(tmp_path, files):
    data = open_dataset(tree(tmp_path, files))
    assert len(data) == len(files)
    assert data.labels is None
    assert data.classes == ()
    assert data[0].label == -1


def test_folder_with_splits(tmp_path):
    files = ["train/cat/0.png", "train/dog/1.png", "train/owl/2.png", "validation/owl/3.png"]
    tree(tmp_path, [*files, "validation/cat/4.png"])
    assert available_splits(tmp_path) == ("train", "validation")
    assert open_dataset(tmp_path, "train").labels.tolist() == [0, 1, 2]
    for word in ("validation", "val", "valid", "VAL"):
        data = open_dataset(tmp_path, word)
        assert names(data) == ["validation/cat/4.png", "validation/owl/3.png"]
        assert data.labels.tolist() == [0, 2]  # numbered as in train, though val has no dog
        assert data.classes == ("cat", "dog", "owl")
    everything = open_dataset(tmp_path)
    assert everything.labels.tolist() == [0, 1, 2, 0, 2]
    assert "Known: train, validation" in error(tmp_path, split="test")


def test_splits_without_classes(tmp_path):
    tree(tmp_path, ["train/0.png", "test/1.png"])
    assert available_splits(tmp_path) == ("train", "test")
    assert open_dataset(tmp_path, "test").labels is None
    assert names(open_dataset(tmp_path, "test")) == ["test/1.png"]


def test_linked_class_folders_keep_one_name_each(tmp_path):
    tree(tmp_path / "imgs", ["b/0.png", "c/1.png"])
    tree(tmp_path / "store", ["2.png"])
    (tmp_path / "imgs" / "d").symlink_to(tmp_path / "store")
    (tmp_path / "imgs" / "a").symlink_to("b")
    data = open_dataset(tmp_path / "imgs")
    assert names(data) == ["b/0.png", "c/1.png", "d/2.png"]
    assert data.classes == ("b", "c", "d")
    assert data.faults == ()


def test_folder_errors(tmp_path):
    assert "is empty; name a folder that holds images" in error(tmp_path)
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "b.txt").write_text("x")
    (tmp_path / "c").write_text("x")
    message = error(tmp_path)
    assert "no images in" in message
    assert "3 other files (2 .txt, 1 no extension)" in message
    assert "has no splits" in error(tree(tmp_path, ["x.png"]), split="train")


def test_missing_path_suggests_the_nearest(tmp_path):
    (tmp_path / "photographs").mkdir()
    message = error(tmp_path / "photograph")
    assert "does not exist" in message
    assert f"did you mean {tmp_path / 'photographs'}?" in message
    message = error(tmp_path / "photograps" / "cats")
    assert f"{tmp_path} has no 'photograps'; did you mean" in message
    assert "check the path" in error(tmp_path / "zzzzz")
    assert "no data given" in error(" ")


# --- patterns, single files, several sources ------------------------------------------------------


def test_patterns(tmp_path):
    tree(tmp_path, ["cat/0.png", "cat/1.jpg", "dog/2.png", "dog/x.txt"])
    assert names(open_dataset(f"{tmp_path}/**/*.png")) == ["cat/0.png", "dog/2.png"]
    assert open_dataset(f"{tmp_path}/*/*.png").classes == ("cat", "dog")
    assert names(open_dataset(f"{tmp_path}/{{dog,cat}}/*")) == ["dog/2.png", "cat/0.png", "cat/1.jpg"]
    assert len(open_dataset(f"{tmp_path}/*")) == 3  # the two folders
    assert "nothing matches" in error(f"{tmp_path}/*.tif")
    assert "but no image or archive (.txt)" in error(f"{tmp_path}/*/*.txt")
    odd = tree(tmp_path / "[x], y{1..2}", ["0.png"])
    assert names(open_dataset(str(odd))) == ["0.png"]


def test_single_image(tmp_path):
    path = tree(tmp_path, ["a.png"]) / "a.png"
    data = open_dataset(path)
    assert names(data) == ["a.png"]
    assert level(data, 0) == 0
    (tmp_path / "b.dat").write_bytes(b"\x00\x01\x02")
    assert "not recognised as an image, a list, a tar or a zip" in error(tmp_path / "b.dat")


def test_several_sources(tmp_path):
    a = tree(tmp_path / "a", ["dog/0.png", "owl/1.png"])
    b = tree(tmp_path / "b", ["cat/0.png", "dog/1.png", "dog/2.png"])
    c = tree(tmp_path / "c", ["0.png"])
    for spec in ([a, str(b), c], f"{a},{b}, {c}"):
        data = open_dataset(spec)
        assert names(data)[::2] == [f"{a}/dog/0.png", f"{b}/cat/0.png", f"{b}/dog/2.png"]
        assert data.classes == ("dog", "owl", "cat")
        assert data.labels.tolist() == [0, 1, 2, 0, 0, -1]
        assert [level(data, i) for i in range(6)] == [0, 1, 0, 1, 2, 0]
        assert data[3].index == 3
        assert data[3].name == f"{b}/dog/1.png"
    assert len(open_dataset(f"synthetic:n=3,size=16,{a}")) == 5
    assert "listed twice" in error([a, a])
    assert "empty list" in error([])


def test_subset_and_iteration(tmp_path):
    data = open_dataset(tree(tmp_path, [f"{c}/{i}.png" for i in range(3) for c in "ab"]))
    part = data.subset([4, 1, 1]).subset(np.array([0, 2]))
    assert names(part) == ["b/1.png", "a/1.png"]
    assert part.labels.tolist() == [1, 0]
    assert part.classes == data.classes
    assert [(s.index, s.name) for s in part] == [(0, "b/1.png"), (1, "a/1.png")]
    assert part.read(0) == data.read(4)
    assert part.header(0) == (9, 10, "L")
    assert data[-1].index == 5
    assert len(data.subset([])) == 0
    with pytest.raises(IndexError):
        data.subset([6])
    with pytest.raises(IndexError):
        data[6]


def test_limits_reach_the_images(tmp_path):
    tree(tmp_path, ["a.png"])
    with pytest.raises(ImageError, match="min_side=64"):
        open_dataset(tmp_path, limits=ImageLimits(min_side=64))[0]


# --- lists ----------------------------------------------------------------------------------------


def test_text_list(tmp_path):
    tree(tmp_path / "x", ["a b.png", "c.png"])
    path = tmp_path / "list.txt"
    path.write_text(f"# mine\nx/a b.png\n\n{tmp_path}/x/c.png\nx/gone.png\nx/a b.png\n")
    data = open_dataset(path)
    assert names(data) == ["x/a b.png", f"{tmp_path}/x/c.png", "x/gone.png"]
    assert [level(data, i) for i in range(2)] == [0, 1]
    assert "1 repeated rows dropped" in data.description
    assert data.labels is None
    with pytest.raises(ImageError, match="no such file"):
        data[2]
    path.write_text("x/a b.png\tcat\nx/c.png\tant\n")
    assert open_dataset(path).labels.tolist() == [1, 0]
    path.write_text("\n")
    assert "is empty; write one image path per line" in error(path)


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet"])
def test_table(tmp_path, kind):
    tree(tmp_path, ["a.png", "b.png", "c.png"])
    rows = [("c.png", 3, "owl", "val"), ("a.png", 1, "cat", "train"), ("b.png", None, None, "train")]
    path = tmp_path / f"list.{kind}"
    if kind == "parquet":
        import pyarrow
        import pyarrow.parquet

        columns = dict(
            zip(("file", "label", "class", "split"), map(list, zip(*rows, strict=True)), strict=True)
        )
        pyarrow.parquet.write_table(pyarrow.table(columns), path)
    else:
        lines = [("File", "Label", "class", "split"), *rows]
        mark = {"csv": ",", "tsv": "\t"}[kind]
        text = "\n".join(mark.join("" if cell is None else str(cell) for cell in line) for line in lines)
        path.write_text("\ufeff" + text)
    data = open_dataset(path)
    assert names(data) == ["c.png", "a.png", "b.png"]
    assert data.labels.tolist() == [3, 1, -1]
    assert data.classes == ("0", "cat", "2", "owl")
    assert available_splits(path) == ("train", "val")
    train = open_dataset(path, "train")
    assert names(train) == ["a.png", "b.png"]
    assert train.labels.tolist() == [1, -1]
    assert train.classes == data.classes
    assert level(train, 0) == 0


def test_table_without_header_or_with_names_only(tmp_path):
    path = tmp_path / "l.csv"
    path.write_text("a.png,dog\nb.png,cat\n")
    assert open_dataset(path).labels.tolist() == [1, 0]
    path.write_text("image,class\na.png,dog\nb.png,cat\n")
    data = open_dataset(path)
    assert (data.labels.tolist(), data.classes) == ([1, 0], ("cat", "dog"))


def test_table_errors(tmp_path):
    path = tmp_path / "l.csv"
    path.write_text("url,height\nhttp://x,3\n")
    message = error(path)
    assert "has the columns url, height; none of them is called path, file" in message
    assert "Rename the column" in message
    bad = tmp_path / "l.parquet"
    bad.write_bytes(b"PAR1 and then nothing")
    assert "not a readable parquet file" in error(bad)


# --- archives -------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tar_index_agrees_with_tarfile(tmp_path, form):
    long = "folder-" + "x" * 60 + "/" + "y" * 60 + "/"
    files = {"a.png": b"1" * 700, long + "b.png": b"22", "ü/c.png": b"", "d.txt": b"4" * 512}
    path = tar(tmp_path / "a.tar", files, format=form)
    with tarfile.open(path, "a", format=form) as archive:
        link = tarfile.TarInfo("hard.png")
        link.type, link.linkname = (
            tarfile.LNKTYPE,
            long + "b.png" if form != tarfile.USTAR_FORMAT else "a.png",
        )
        archive.addfile(link)
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        archive.addfile(tarfile.TarInfo("last.png"))
    index = index_tar(path)
    assert index.broken is None
    data = path.read_bytes()
    with tarfile.open(path) as archive:
        want = {m.name: archive.extractfile(m).read() for m in archive if not m.isdir()}
    assert {m.name: data[m.offset : m.offset + m.size] for m in index.members} == want


def test_tar_with_class_folders(tmp_path):
    path = tar(tmp_path / "a.tar", {"cat/0.png": png(5), "cat/x.txt": b"", "dog/1.png": png(6)})
    data = open_dataset(path)
    assert names(data) == ["cat/0.png", "dog/1.png"]
    assert data.labels.tolist() == [0, 1]
    assert [level(data, i) for i in (1, 0)] == [6, 5]
    assert data.header(1) == (9, 10, "L")
    assert "1 other file ignored" in data.description


@pytest.mark.parametrize("label", ["cls", "json"])
def test_webdataset_shards(tmp_path, label):
    for shard in range(3):
        files = {}
        for key in range(2):
            value = 2 * shard + key
            text = str(value) if label == "cls" else json.dumps({"label": value, "class": f"c{value}"})
            files |= {f"{key}.png": png(value), f"{key}.seg.png": png(99), f"{key}.{label}": text.encode()}
        tar(tmp_path / f"s-{shard:03d}.tar", files)
    want = [f"s-{shard:03d}.tar/{key}.png" for shard in range(3) for key in range(2)]
    (tmp_path / "README.md").write_text("x")
    for spec in (tmp_path, f"{tmp_path}/s-{{000..002}}.tar", f"{tmp_path}/*.tar"):
        data = open_dataset(spec)
        assert names(data) == want
        assert data.labels.tolist() == list(range(6))
        assert data.classes[5] == ("5" if label == "cls" else "c5")
        assert [level(data, i) for i in range(6)] == list(range(6))
    assert names(open_dataset(f"{tmp_path}/s-{{001..002}}.tar")) == want[2:]


def test_dots_in_names_do_not_hide_images(tmp_path):
    path = tar(tmp_path / "a.tar", {"x.1.png": png(1), "x.2.png": png(2)})
    assert names(open_dataset(path)) == ["x.1.png", "x.2.png"]


def test_large_members_stream_their_header(tmp_path):
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (400, 500, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "TIFF")  # its directory is behind the pixels
    data = open_dataset(tar(tmp_path / "a.tar", {"a.png": png(1), "b.tif": file.getvalue()}))
    assert data.header(1) == (500, 400, "RGB")
    assert np.array_equal(np.asarray(data[1].image), pixels)


def test_gzip_is_unpacked_once(tmp_path, cache):
    path = tar(tmp_path / "a.tar.gz", {f"{i}.png": png(i) for i in range(4)}, "w:gz")
    data = open_dataset(path)
    assert [level(data, i) for i in range(4)] == [0, 1, 2, 3]
    made = list((cache / "tar").iterdir())
    assert len(made) == 1
    before = made[0].stat().st_mtime_ns
    open_dataset(path)
    assert [f.stat().st_mtime_ns for f in (cache / "tar").iterdir()] == [before]
    tar(path, {"0.png": png(77)}, "w:gz")
    assert level(open_dataset(path), 0) == 77
    assert len(list((cache / "tar").iterdir())) == 2


def test_broken_archives_keep_what_comes_before(tmp_path):
    noise = [np.random.default_rng(i).bytes(5000) for i in range(6)]
    files = {f"{i}.png": png(i) + noise[i] for i in range(6)}
    whole = tar(tmp_path / "w.tar", files).read_bytes()
    end_of_three = index_tar(tmp_path / "w.tar").members[3].offset - 512
    for cut, kept in ((end_of_three + 3000, 3), (end_of_three + 100, 3), (end_of_three, 3)):
        (tmp_path / "a.tar").write_bytes(whole[:cut])
        data = open_dataset(tmp_path / "a.tar")
        assert [level(data, i) for i in range(len(data))] == [0, 1, 2][:kept]
        if cut != end_of_three:
            assert "truncated inside" in data.faults[0].reason
            assert "the 3 files before it are kept" in data.faults[0].reason
    (tmp_path / "b.tar").write_bytes(whole[:end_of_three] + b"garbage!" * 64 + whole[end_of_three + 512 :])
    assert "no file header at byte" in open_dataset(tmp_path / "b.tar").faults[0].reason
    packed = gzip.compress(whole)
    (tmp_path / "c.tgz").write_bytes(packed[: len(packed) // 2])
    for _ in range(2):  # the second time from the cache
        data = open_dataset(tmp_path / "c.tgz")
        assert 1 <= len(data) < 6
        assert level(data, 0) == 0
        assert "compressed data break off" in data.faults[0].reason
    (tmp_path / "d.tar").write_bytes(b"not a tar")
    assert "no readable image in" in error(tmp_path / "d.tar")
    assert "no images in" in error(tar(tmp_path / "e.tar", {"a.txt": b""}))


def test_archive_cut_after_opening(tmp_path):
    path = tar(tmp_path / "a.tar", {"0.png": png(0), "1.png": png(1)})
    data = open_dataset(path)
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(ImageError, match="cut short"):
        data[1]
    path.unlink()
    with pytest.raises(ImageError, match="its archive: no such file"):
        pickle.loads(pickle.dumps(data))[0]


def test_zip(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, value in {"imgs/dog/0.png": 3, "imgs/cat/1.png": 4, "__MACOSX/imgs/._x.png": 5}.items():
            archive.writestr(name, png(value))
        archive.writestr("imgs/notes.txt", "x")
    data = open_dataset(path)
    assert names(data) == ["imgs/cat/1.png", "imgs/dog/0.png"]
    assert (data.labels.tolist(), data.classes) == ([0, 1], ("cat", "dog"))
    assert [level(data, i) for i in range(2)] == [4, 3]
    assert data.header(0) == (9, 10, "L")
    assert [level(pickle.loads(pickle.dumps(data)), i) for i in range(2)] == [4, 3]


def test_broken_zip(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", png(3))
        archive.writestr("b.png", png(4))
    sound = path.read_bytes()
    path.write_bytes(sound.replace(png(3), png(3)[:-20] + b"!" * 20, 1))
    data = open_dataset(path)
    with pytest.raises(ImageError, match=r"a\.png: damaged in the zip: Bad CRC"):
        data[0]
    assert level(data, 1) == 4
    path.write_bytes(sound[:-60])
    assert "not a complete zip archive" in error(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "x")
    assert "no images in" in error(path)


# --- packs ----------------------------------------------------------------------------------------


def make_pack(root: Path) -> Path:
    rows = ["file,split,label,class"]
    for split, values in {"train": (0, 2), "val": (1,)}.items():
        files = {f"{v}.jpg.png": png(v) for v in values} | {f"{v}.seg.png": png(99) for v in values}
        tar(root / f"p-{split}.tar", files)
        rows += [f"{v}.jpg.png,{split},{v},c{v}" for v in values]
    (root / "manifest.csv").write_text("\n".join(rows))
    return root


def test_pack(tmp_path):
    make_pack(tmp_path)
    assert available_splits(tmp_path) == ("train", "val")
    data = open_dataset(tmp_path)
    assert names(data) == ["0.jpg.png", "2.jpg.png", "1.jpg.png"]
    assert data.labels.tolist() == [0, 2, 1] == [level(data, i) for i in range(3)]
    assert data.classes == ("c0", "c1", "c2")
    validation = open_dataset(tmp_path, "validation")
    assert (names(validation), validation.labels.tolist()) == (["1.jpg.png"], [1])
    alone = open_dataset(tmp_path / "p-val.tar")
    assert (names(alone), alone.labels.tolist(), alone.classes) == (["1.jpg.png"], [1], data.classes)
    assert available_splits(tmp_path / "p-val.tar") == ("val",)
    assert names(open_dataset(f"{tmp_path}/*.tar")) == names(data)
    assert "Known: train, val" in error(tmp_path, split="all")


def test_pack_rows_without_member_are_faults(tmp_path):
    make_pack(tmp_path)
    with (tmp_path / "manifest.csv").open("a") as file:
        file.write("\ngone.png,train,1,c1\n")
    data = open_dataset(tmp_path)
    assert len(data) == 3
    assert [(f.name, "none of the archives" in f.reason) for f in data.faults] == [("gone.png", True)]


def test_manifest_that_belongs_to_other_archives(tmp_path):
    make_pack(tmp_path)
    assert names(open_dataset(tar(tmp_path / "other.tar", {"z.png": png(1)}))) == ["z.png"]


@pytest.mark.parametrize(
    ("name", "counts", "classes"),
    [
        ("cifar10", {"test": 10_000}, 10),
        ("bccd", {"train": 80, "test": 40}, 0),
        ("camvid", {"train": 123, "val": 21, "test": 39}, 0),
    ],
)
def test_shared_packs(name, counts, classes):
    folder = PACKS / name
    if not folder.is_dir():
        pytest.skip(f"the pack {name} is not beside the repository")
    for split, count in counts.items():
        assert split in available_splits(folder)
        data = open_dataset(folder, split)
        assert len(data) == count
        assert data.faults == ()
        assert len(data.classes) == classes
        assert not any(".seg." in text for text in names(data))
        sample = data[count - 1]
        assert sample.image.mode == "RGB"
        if classes:
            assert data.classes[sample.label] == sample.name.split("_")[1]
            assert np.bincount(data.labels).tolist() == [count // classes] * classes


# --- synthetic ------------------------------------------------------------------------------------


def test_synthetic():
    data = open_dataset("synthetic:n=40,size=32,classes=8,seed=1")
    assert len(data) == 40
    assert data.labels.tolist() == [i % 8 for i in range(40)]
    assert len(set(data.classes)) == 8
    first = np.asarray(data[3].image)
    assert first.shape == (32, 32, 3)
    assert first.std() > 10
    assert np.array_equal(first, np.asarray(decode_image(data.read(3), "x")))
    assert np.array_equal(first, np.asarray(open_dataset("synthetic:size=32,n=4,classes=8,seed=1")[3].image))
    assert not np.array_equal(first, np.asarray(data[11].image))
    assert not np.array_equal(first, np.asarray(open_dataset("synthetic:size=32,classes=8")[3].image))
    assert len(open_dataset("synthetic:")) == 256
    assert len(set(open_dataset("synthetic:classes=100").classes)) == 100


def test_synthetic_shapes_tell_the_classes_apart():
    """The nearest mean edge picture finds most classes, the mean colour does not."""
    data = open_dataset("synthetic:n=240,size=32,classes=4")
    pixels = np.stack([np.asarray(data[i].image, dtype=float) for i in range(240)])
    spectrum = np.abs(np.fft.fft2(pixels.mean(-1) - pixels.mean((1, 2, 3))[:, None, None]))[:, :8, :8]
    spectrum = (spectrum / np.linalg.norm(spectrum, axis=(1, 2), keepdims=True)).reshape(240, -1)

    def accuracy(features: np.ndarray) -> float:
        means = np.stack([features[:120][data.labels[:120] == c].mean(0) for c in range(4)])
        distance = ((features[120:, None] - means) ** 2).sum(-1)
        return (distance.argmin(1) == data.labels[120:]).mean()

    assert accuracy(spectrum) > 0.5
    assert accuracy(pixels.mean((1, 2))) < 0.45


def test_synthetic_errors():
    assert "did you mean 'size'" in error("synthetic:sice=3")
    assert "synthetic:n=256" in error("synthetic:n=-1")


# --- processes, memory, scanning --------------------------------------------------------------------


def _read(data: ImageDataset, out) -> None:
    out.put([level(data, i) for i in range(len(data))])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_reading_in_another_process(tmp_path, method, recwarn):
    tree(tmp_path / "f", ["0.png", "1.png"])
    files = {f"{i}.png": png(i) for i in range(2)}
    tar(tmp_path / "a.tar", files)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    data = open_dataset([tmp_path / "f", tmp_path / "a.tar", tmp_path / "a.zip"])
    want = [level(data, i) for i in range(6)]  # opens the handles here first
    context = multiprocessing.get_context(method)
    queue = context.SimpleQueue()
    child = context.Process(target=_read, args=(data, queue))
    child.start()
    assert queue.get() == want == [0, 1] * 3
    child.join(60)
    assert child.exitcode == 0
    assert [level(data, i) for i in range(6)] == want


def test_more_shards_than_open_files(tmp_path):
    for i in range(80):
        tar(tmp_path / f"{i:02d}.tar", {"a.png": png(i)})
    data = open_dataset(tmp_path)
    for _ in range(2):
        assert [level(data, i) for i in range(80)] == list(range(80))
    assert len(data.handles._open) <= 64


def test_scan_samples_evenly(tmp_path):
    data = open_dataset("synthetic:n=1000,size=16")
    report = scan(data, sample=10)
    assert (report.images, report.examined, report.modes) == (1000, 10, {"RGB": 10})
    assert (report.median_width, report.min_side, report.max_side) == (16, 16, 16)
    assert report.sentence() == "found 1,000 images, median 16 x 16, RGB 100 %"
    for i in range(99):
        Image.new("L", (20, 30)).save(tmp_path / f"{i}.png")
    Image.new("RGB", (40, 50)).save(tmp_path / "z.png")
    (tmp_path / "bad.png").write_text("x")
    report = scan(open_dataset(tmp_path))
    assert report.sentence() == "found 101 images (1 unreadable), median 20 x 30, L 99 %, RGB 1 %"
    assert (report.min_side, report.max_side) == (20, 50)
    assert report.unreadable[0].name == "bad.png"
    said = {scan(open_dataset(tmp_path), 100, seed=seed).sentence() for seed in range(8)}
    assert any("(1 unreadable among 100 examined)" in sentence for sentence in said)
    assert len(said) > 1


def test_class_folders_in_an_outer_folder_are_labels_in_archives(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "imgs" / name).mkdir(parents=True)
        Image.new("RGB", (9, 9)).save(tmp_path / "imgs" / name / "a.png")
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(tmp_path / "imgs", "imgs")
    assert open_dataset(tmp_path / "x.tar").classes == ("cat", "dog")
