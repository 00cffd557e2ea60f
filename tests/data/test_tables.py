"""Images inside tables: parquet, what Hugging Face `datasets` saves, LMDB; and lists that name URLs."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nexus.data.datasets import available_splits, open_dataset
from nexus.errors import DataError, ImageError
from tests.data.making import CLASSES, LABELS, LEVELS, member, parquet, png

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

pa = pytest.importorskip("pyarrow")
parquet_files = pytest.importorskip("pyarrow.parquet")


def levels(data) -> list[int]:
    return [data[i].image.getpixel((0, 0))[0] for i in range(len(data))]


def error(spec, **options) -> str:
    with pytest.raises(DataError) as caught:
        open_dataset(spec, **options)
    return str(caught.value)


def write(path: Path, columns: dict, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet_files.write_table(pa.table(columns), path, **options)
    return path


def test_random_rows_come_from_their_row_groups(tmp_path):
    """Pictures of many sizes in groups of all lengths; the oracle is the list they were written from."""
    rng = np.random.default_rng(0)
    files = []
    for i in range(57):
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (9 + i % 7, 9 + i, 3), dtype=np.uint8)).save(file, "PNG")
        files.append(file.getvalue())
    write(tmp_path / "b.parquet", {"jpg": files[:30]}, row_group_size=7)
    write(tmp_path / "c.parquet", {"jpg": files[30:30]})
    write(tmp_path / "d.parquet", {"jpg": files[30:]}, row_group_size=11)
    data = open_dataset(tmp_path)
    order = rng.permutation(57)
    assert [data.read(int(i)) for i in order] == [files[i] for i in order]
    assert data.name(30) == "d.parquet/000000"
    assert len(data._recent) <= 2
    assert data.labels is None


def test_hugging_faces_layout(tmp_path):
    """Splits by the names of the files, classes from the description in the schema."""
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": list(CLASSES)}}
    for name, chosen in {
        "train-00000-of-00002": [0, 1],
        "train-00001-of-00002": [2, 3],
        "test-0": [5],
    }.items():
        table = pa.table(
            {
                "thumbnail": [b"not this one"] * len(chosen),
                "image": [{"bytes": png(i), "path": f"{i}.png"} for i in chosen],
                "label": [LABELS[i] for i in chosen],
            }
        )
        described = {"huggingface": json.dumps({"info": {"features": features}})}
        path = tmp_path / "data" / f"{name}.parquet"
        path.parent.mkdir(exist_ok=True)
        parquet_files.write_table(table.replace_schema_metadata(described), path)
    (tmp_path / "README.md").write_text("# a card")
    assert available_splits(tmp_path) == ("train", "test")
    train = open_dataset(tmp_path, "train")
    assert levels(train) == LEVELS[:4]
    assert (train.labels.tolist(), train.classes) == (LABELS[:4], CLASSES)
    test = open_dataset(tmp_path, "test")
    assert (test.labels.tolist(), test.classes) == ([2], CLASSES)
    assert len(open_dataset(tmp_path)) == 5


def test_text_labels_mean_the_same_in_each_split(tmp_path):
    write(tmp_path / "train.parquet", {"jpg": [png(0), png(1)], "class": ["cat", "ant"]})
    write(tmp_path / "val.parquet", {"jpg": [png(2)], "class": ["cat"]})
    data = open_dataset(tmp_path, "validation")
    assert (data.labels.tolist(), data.classes) == ([1], ("ant", "cat"))


def test_rows_without_bytes(tmp_path):
    (tmp_path / "x.png").write_bytes(png(3))
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = [
        {"bytes": None, "path": "x.png"},
        {"bytes": None, "path": "gone.png"},
        {"bytes": None, "path": None},
        None,
    ]
    data = open_dataset(write(tmp_path / "a.parquet", {"image": pa.array(rows, kind)}))
    assert data[0].image.getpixel((0, 0))[0] == LEVELS[3]
    for i, reason in ((1, "no such file"), (2, "the row has no image"), (3, "the row has no image")):
        with pytest.raises(ImageError, match=rf"a\.parquet/00000{i}: {reason}"):
            data[i]


def test_parquet_that_is_a_list_or_neither(tmp_path):
    (tmp_path / "x.png").write_bytes(png(3))
    assert levels(open_dataset(write(tmp_path / "l.parquet", {"path": ["x.png"]}))) == [LEVELS[3]]
    assert "has the columns size; none of them is called path" in error(
        write(tmp_path / "n.parquet", {"size": [1]})
    )
    message = error(write(tmp_path / "m.parquet", {"image": [[1, 2], [3]]}))
    assert "neither text nor the bytes of image files" in message
    write(tmp_path / "p" / "a.parquet", {"jpg": [png(0)]})
    write(tmp_path / "p" / "b.parquet", {"png": [png(0)]})
    assert "b.parquet has the columns png; none of them holds image bytes like 'jpg' in a.parquet" in error(
        tmp_path / "p"
    )
    (tmp_path / "p" / "b.parquet").write_bytes(b"PAR1 and nothing")
    assert "b.parquet is not a readable parquet file" in error(tmp_path / "p")


def test_parquet_damaged_after_opening(tmp_path):
    path = Path(parquet(tmp_path))
    data = open_dataset(path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ImageError, match="its table is damaged"):
        data[4]


def test_data_set_dicts_and_what_datasets_reads_from_them(tmp_path):
    import datasets

    columns = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))}
    )

    def rows(chosen):
        images = [{"bytes": png(i), "path": None} for i in chosen]
        return datasets.Dataset.from_dict(
            {"image": images, "label": [LABELS[i] for i in chosen]}, features=columns
        )

    both = datasets.DatasetDict(train=rows([0, 1, 2, 3]).select([3, 1, 0]), validation=rows([4, 5]))
    both.save_to_disk(tmp_path / "saved")
    assert available_splits(tmp_path / "saved") == ("train", "validation")
    theirs = datasets.load_from_disk(tmp_path / "saved")
    for split in ("train", "validation"):
        ours = open_dataset(tmp_path / "saved", split)
        assert len(ours) == len(theirs[split])
        assert ours.classes == CLASSES
        for i, row in enumerate(theirs[split]):
            assert np.array_equal(np.asarray(ours[i].image), np.asarray(row["image"].convert("RGB")))
            assert ours.label(i) == row["label"]
    assert len(open_dataset(tmp_path / "saved")) == 5
    assert "Known: train, validation" in error(tmp_path / "saved", split="test")


def test_a_damaged_saved_data_set(tmp_path):
    (tmp_path / "state.json").write_text("{}")
    (tmp_path / "dataset_info.json").write_text("{}")
    assert "cannot read" in error(tmp_path)
    (tmp_path / "state.json").write_text('{"_data_files": [{"filename": "a.arrow"}]}')
    assert "a.arrow is not a readable arrow file" in error(tmp_path)
    (tmp_path / "a.arrow").write_bytes(b"nothing")
    assert "a.arrow is not a readable arrow file" in error(tmp_path)
    (tmp_path / "state.json").write_text('{"_data_files": [], "_indices_data_files": [{"filename": "i"}]}')
    assert "save it again after `flatten_indices()`" in error(tmp_path)


# --- LMDB -----------------------------------------------------------------------------------------


def database(path: Path, values: dict[bytes, bytes], **options) -> Path:
    import lmdb

    with lmdb.open(str(path), map_size=1 << 20, **options) as made, made.begin(write=True) as writing:
        for key, value in values.items():
            writing.put(key, value)
    return path


def test_keys_without_endings(tmp_path):
    values = {b"num-samples": b"6", b"__meta": b"{}"}
    values |= {b"image-%09d" % i: png(i) for i in range(6)} | {b"label-%09d" % i: b"word" for i in range(6)}
    data = open_dataset(database(tmp_path / "db", values))
    assert [data.name(i) for i in (0, 5)] == ["image-000000000", "image-000000005"]
    assert levels(data) == LEVELS
    assert "8 other files ignored" in data.description
    odd = {b"\xff\xfe-%d" % i: png(i) for i in range(3)}
    data = open_dataset(database(tmp_path / "one.lmdb", odd, subdir=False))
    assert levels(data) == LEVELS[:3]


def test_lmdb_errors_and_replacement(tmp_path):
    path = database(tmp_path / "db", {b"a": b"text", b"b": b"text"})
    assert "no images in the LMDB" in error(path)
    assert "values must be the content of image files" in error(path)
    path = database(tmp_path / "two.lmdb", {b"a.png": png(1)}, subdir=False)
    data = open_dataset(path)
    assert levels(data) == [LEVELS[1]]
    database(tmp_path / "three.lmdb", {b"a.png": png(2)}, subdir=False).rename(path)
    assert levels(open_dataset(path)) == [LEVELS[2]]
    database(tmp_path / "four.lmdb", {b"z.png": png(2)}, subdir=False).rename(path)
    open_dataset(path)
    with pytest.raises(ImageError, match=r"a\.png: its key is gone from the LMDB"):
        data[0]


# --- lists of URLs ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["csv", "parquet", "txt"])
def test_lists_may_mix_files_and_urls(tmp_path, kind, monkeypatch):
    monkeypatch.setenv("NEXUS_CACHE", str(tmp_path / "cache"))
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(png(i))
    places = ["0.png", f"file://{tmp_path}/1.png", str(tmp_path / "2.png"), f"file://{tmp_path}/{member(5)}"]
    path = tmp_path / f"list.{kind}"
    if kind == "parquet":
        write(path, {"url": places, "label": [0, 1, 2, 3]})
    else:
        path.write_text("\n".join(["url"] * (kind == "csv") + places))
    data = open_dataset(path)
    assert [data.name(i) for i in range(4)] == places
    assert levels(data.subset([0, 1, 2])) == LEVELS[:3]
    assert data.header(1) == (24, 16, "L")
    with pytest.raises(ImageError, match="no such file") as caught:
        data[3]
    assert caught.value.name == places[3]
