"""Benchmarks in the layouts that people have: a small tree of each, and what is said about gaps."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nexus.data.datasets import available_splits, open_dataset
from nexus.data.datasets.known import imagenet, sizes
from nexus.errors import DataError

WNIDS = ("n01440764", "n01443537", "n02084071")
TRUTH = ("n02084071", "n01440764", "n01443537", "n01440764")
"""What validation images 1 to 4 show."""


def image(path: Path, level: int = 90) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 9, 3), level, dtype=np.uint8)).save(path, "JPEG")


def validation(number: int) -> str:
    return f"ILSVRC2012_val_{number:08d}.JPEG"


def imagenet_tree(root: Path, below: str = "") -> Path:
    for number, wnid in enumerate(WNIDS):
        for i in range(2):
            image(root / below / "train" / wnid / f"{wnid}_{i}.JPEG", 20 * number)
    for number in range(1, 5):
        image(root / below / "val" / validation(number))
    image(root / below / "test" / "ILSVRC2012_test_00000001.JPEG")
    return root


def said_by_kaggle(root: Path) -> None:
    rows = [f"{Path(validation(n)).stem},{wnid} 1 2 3 4 {wnid} 5 6 7 8" for n, wnid in enumerate(TRUTH, 1)]
    (root / "LOC_val_solution.csv").write_text("ImageId,PredictionString\n" + "\n".join(rows[::-1]))


def said_by_torchvision(root: Path) -> None:
    torch.save((dict.fromkeys(WNIDS, ("name",)), list(TRUTH)), root / "meta.bin")


def said_by_tensorflow(root: Path) -> None:
    (root / "imagenet_2012_validation_synset_labels.txt").write_text("\n".join(TRUTH) + "\n")


def said_by_the_devkit(root: Path) -> None:
    """Its numbers are not in alphabetical order, and it lists inner nodes of WordNet as well."""
    from scipy.io import savemat

    folder = root / "ILSVRC2012_devkit_t12" / "data"
    folder.mkdir(parents=True)
    numbers = {"n02084071": 1, "n01440764": 2, "n01443537": 3, "n00001740": 4}
    kinds = [("ILSVRC2012_ID", "f8"), ("WNID", "O"), ("num_children", "f8")]
    rows = [(number, wnid, float(number == 4)) for wnid, number in numbers.items()]
    savemat(folder / "meta.mat", {"synsets": np.array(rows, dtype=kinds)})
    text = "\n".join(str(numbers[wnid]) for wnid in TRUTH)
    (folder / "ILSVRC2012_validation_ground_truth.txt").write_text(text + "\n")


def said_by_caffe(root: Path) -> None:
    rows = [f"{validation(n)} {WNIDS.index(wnid)}" for n, wnid in enumerate(TRUTH, 1)]
    (root / "val.txt").write_text("\n".join(rows) + "\n")


def said_by_annotations(root: Path) -> None:
    folder = root / "Annotations" / "CLS-LOC" / "val"
    folder.mkdir(parents=True)
    for n, wnid in enumerate(TRUTH, 1):
        text = f"<annotation><object>\n\t<name>{wnid}</name></object></annotation>"
        (folder / f"{Path(validation(n)).stem}.xml").write_text(text)


@pytest.mark.parametrize(
    "say",
    [
        *(said_by_kaggle, said_by_torchvision, said_by_tensorflow),
        *(said_by_the_devkit, said_by_caffe, said_by_annotations),
    ],
)
def test_flat_validation_images_get_their_labels(tmp_path, say):
    say(imagenet_tree(tmp_path))
    assert available_splits(tmp_path) == ("train", "val")
    train, val = (open_dataset(tmp_path, split) for split in ("train", "val"))
    assert train.classes == val.classes == WNIDS
    assert train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert [WNIDS[label] for label in val.labels] == list(TRUTH)
    assert val[2].label == 1
    assert len(open_dataset(tmp_path)) == 10


def test_the_kaggle_download(tmp_path):
    said_by_kaggle(imagenet_tree(tmp_path, "ILSVRC/Data/CLS-LOC"))
    assert [WNIDS[label] for label in open_dataset(tmp_path, "val").labels] == list(TRUTH)
    inside = open_dataset(tmp_path / "ILSVRC" / "Data" / "CLS-LOC", "val")
    assert [WNIDS[label] for label in inside.labels] == list(TRUTH)


def test_without_any_labels_the_cure_is_named(tmp_path):
    imagenet_tree(tmp_path)
    assert len(open_dataset(tmp_path, "train")) == 6
    with pytest.raises(DataError, match="ILSVRC2012_devkit_t12"):
        open_dataset(tmp_path, "val")
    (tmp_path / "ILSVRC2012_validation_ground_truth.txt").write_text("1\n2\n")
    with pytest.raises(DataError, match=r"meta\.mat"):
        open_dataset(tmp_path, "val")


def test_validation_images_of_classes_that_are_not_learned_are_left_out(tmp_path):
    said_by_kaggle(imagenet_tree(tmp_path))
    for file in (tmp_path / "train" / WNIDS[1]).iterdir():
        file.unlink()
    (tmp_path / "train" / WNIDS[1]).rmdir()
    val = open_dataset(tmp_path, "val")
    assert val.classes == (WNIDS[0], WNIDS[2])
    assert val.labels.tolist() == [1, 0, 0]
    assert "1 of classes without training images left out" in val.description


def test_missing_images_are_said(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(imagenet, "CLASSES", 3)
    monkeypatch.setitem(sizes.OFFICIAL, "ImageNet-1k", {"train": 6, "val": 50_000})
    said_by_kaggle(imagenet_tree(tmp_path))
    open_dataset(tmp_path, "train")
    assert not caplog.records
    open_dataset(tmp_path, "val")
    assert "ImageNet-1k val: 4 of 50,000 images are here" in caplog.text


def test_archives_that_are_not_unpacked(tmp_path, caplog):
    imagenet_tree(tmp_path)
    for wnid in WNIDS:
        for file in (tmp_path / "train" / wnid).iterdir():
            file.unlink()
        (tmp_path / "train" / f"{wnid}.tar").write_bytes(b"")
    with pytest.raises(DataError, match="unpack the 3 archives"):
        open_dataset(tmp_path, "train")


def test_a_smaller_set_in_class_folders_is_an_ordinary_folder(tmp_path):
    for split in ("train", "val"):
        for wnid in WNIDS:
            image(tmp_path / split / wnid / "a.JPEG")
    assert available_splits(tmp_path) == ("train", "val")
    assert open_dataset(tmp_path, "val").description.startswith("folder")


@pytest.mark.parametrize("name", ["imagenet-r", "imagenet-a", "sketch"])
def test_shifted_sets_say_what_is_missing(tmp_path, name, caplog):
    for wnid in WNIDS[1:]:
        image(tmp_path / name / wnid / "a.jpg")
    dataset = open_dataset(tmp_path / name)
    assert dataset.classes == WNIDS[1:]
    assert "2 of" in caplog.text


def test_v2_counts_its_folders_as_numbers(tmp_path, caplog):
    root = tmp_path / "imagenetv2-matched-frequency-format-val"
    for number in (0, 1, 2, 10):
        image(root / str(number) / "a.jpeg", 10 * number)
    dataset = open_dataset(root)
    assert dataset.classes == ("0", "1", "2", "10")
    assert {dataset.name(i).partition("/")[0]: int(dataset.labels[i]) for i in range(4)} == {
        "0": 0,
        "1": 1,
        "2": 2,
        "10": 3,
    }
    assert "4 of 10,000" in caplog.text


def competition(files: dict[str, int], names: bool = True) -> dict:
    """The JSON of some images; class ids begin at 5 and are not in the order of the files."""
    return {
        "images": [{"id": 40 + i, "file_name": name} for i, name in enumerate(files)],
        "annotations": [
            {"id": i, "image_id": 40 + i, "category_id": category}
            for i, category in enumerate(files.values())
        ][::-1],
        "categories": [{"id": c, "name": f"species {c}"} for c in (7, 5, 9)] if names else [],
    }


@pytest.mark.parametrize("names", [True, False])
def test_inaturalist_2018(tmp_path, names, caplog):
    train = {"train_val2018/Plantae/1/a.jpg": 9, "train_val2018/Aves/2/b.jpg": 5}
    val = {"train_val2018/Aves/2/c.jpg": 7, "train_val2018/Plantae/1/d.jpg": 9}
    for split, files in (("train", train), ("val", val)):
        (tmp_path / f"{split}2018.json").write_text(json.dumps(competition(files, names)))
        for name in files:
            image(tmp_path / name)
    assert available_splits(tmp_path) == ("train", "val")
    dataset = open_dataset(tmp_path, "train")
    assert dataset.labels.tolist() == [2, 0]
    assert dataset.classes == (("species 5", "species 7", "species 9") if names else ("5", "7", "9"))
    assert open_dataset(tmp_path, "val").labels.tolist() == [1, 2]
    assert dataset[1].image.size == (9, 8)
    assert "2 of 437,513" in caplog.text


def test_inaturalist_2021_and_what_is_wrong_with_its_file(tmp_path):
    files = {"train/00000_Animalia_x/a.jpg": 5, "train/00001_Animalia_y/b.jpg": 7}
    for name in files:
        image(tmp_path / name)
    (tmp_path / "train.json").write_text(json.dumps(competition(files)))
    assert open_dataset(tmp_path, "train").labels.tolist() == [0, 1]
    (tmp_path / "train.json").write_text(json.dumps({**competition(files), "categories": [{"id": 5}]}))
    with pytest.raises(DataError, match="category_id 7"):
        open_dataset(tmp_path, "train")
    (tmp_path / "train.json").write_text("{")
    with pytest.raises(DataError, match="cannot read"):
        open_dataset(tmp_path, "train")


def test_places205(tmp_path, caplog):
    lists, images = (
        tmp_path / "trainvalsplit_places205",
        tmp_path / "data/vision/torralba/deeplearning/images256",
    )
    lists.mkdir()
    (lists / "train_places205.csv").write_text("a/abbey/1.jpg 0\na/alley/2.jpg 1\n")
    (lists / "val_places205.csv").write_text("a/alley/3.jpg 1\n")
    for name in ("a/abbey/1.jpg", "a/alley/2.jpg", "a/alley/3.jpg"):
        image(images / name)
    train, val = (open_dataset(tmp_path, split) for split in ("train", "val"))
    assert train.classes == val.classes == ("a/abbey", "a/alley")
    assert (train.labels.tolist(), val.labels.tolist()) == ([0, 1], [1])
    assert val[0].name == "a/alley/3.jpg"
    assert "1 of 20,500" in caplog.text


def test_places365_and_what_is_wrong_with_its_lists(tmp_path):
    (tmp_path / "categories_places365.txt").write_text("/a/airfield 0\n/a/alley 1\n/b/bar 2\n")
    (tmp_path / "places365_train_standard.txt").write_text("/a/airfield/1.jpg 0\n/b/bar/1.jpg 2\n")
    (tmp_path / "places365_val.txt").write_text("Places365_val_00000001.jpg 2\n")
    image(tmp_path / "data_256" / "a" / "airfield" / "1.jpg")
    assert open_dataset(tmp_path, "train").classes == ("a/airfield", "a/alley", "b/bar")
    with pytest.raises(DataError, match="val_256/ or val_large/"):
        open_dataset(tmp_path, "val")
    image(tmp_path / "val_large" / "Places365_val_00000001.jpg")
    assert open_dataset(tmp_path, "val").labels.tolist() == [2]
    (tmp_path / "places365_val.txt").write_text("Places365_val_00000001.jpg two\n")
    with pytest.raises(DataError, match="line 1"):
        open_dataset(tmp_path, "val")
