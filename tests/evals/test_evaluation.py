"""`evaluate` and the splits, on drawn images and a real (random, tiny) backbone."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

from nexus.data.datasets import open_dataset
from nexus.errors import ConfigError, DataError, RunError
from nexus.evals import LinearConfig, evaluate, labelled_splits, split_labelled
from nexus.evals.splits import stratified
from nexus.models.vision import VisionTransformer
from tests.evals.stubs import TinyBackbone

SPEC = "synthetic:n=60,size=32,classes=3"
QUICK = LinearConfig(min_steps=30, epochs=1)


def write_images(root, folders, count=3):
    for number, folder in enumerate(folders):
        (root / folder).mkdir(parents=True)
        for i in range(count):
            pixels = np.full((40, 40, 3), 40 * number + i, dtype=np.uint8)
            Image.fromarray(pixels).save(root / folder / f"{i}.png")


def test_both_tasks_baseline_and_json(tmp_path):
    model = VisionTransformer(img_size=32, patch_size=8, embed_dim=12, depth=2, num_heads=2)
    result = evaluate(SPEC, model.train(), linear=QUICK, device="cpu", out=tmp_path / "e")
    assert model.training
    assert result == json.loads((tmp_path / "e" / "eval.json").read_text())
    assert [path.name for path in (tmp_path / "e").iterdir()] == ["eval.json"]
    assert result["model"] == "VisionTransformer"
    assert result["size"] == 32
    assert result["knn"]["samples"] == result["linear"]["samples"] == 12
    assert result["linear"]["setting"]["n_last_blocks"] in (1, 2)
    assert [(row["features"], row["task"]) for row in result["table"]] == [
        ("model", "knn"),
        ("raw pixels", "knn"),
        ("model", "linear"),
        ("raw pixels", "linear"),
    ]
    assert result["table"][1]["top1"] == result["baseline"]["knn"]["top1"]
    with pytest.raises(RunError, match="exists"):
        evaluate(SPEC, model, out=tmp_path / "e")


def test_one_task_flip_and_overwrite(tmp_path):
    backbone, file = TinyBackbone(), tmp_path / "x.json"
    file.write_text("old")
    flip = QUICK.model_copy(update={"flip": True})
    result = evaluate(
        SPEC, backbone, ["linear"], linear=flip, size=32, limit=30, baseline=False, out=file, overwrite=True
    )
    assert json.loads(file.read_text()) == result
    assert "knn" not in result
    assert "baseline" not in result
    assert result["linear"]["train_samples"] == 30
    assert sum(shape[0] for shape in backbone.shapes) == 30 + 12 + 30


def test_unknown_task_names_the_nearest():
    with pytest.raises(ConfigError, match="linear"):
        evaluate(SPEC, TinyBackbone(), ["linaer"])
    with pytest.raises(ConfigError, match="empty"):
        evaluate(SPEC, TinyBackbone(), [])


def test_splits_of_a_folder_are_used(tmp_path):
    write_images(tmp_path, [f"{split}/{name}" for split in ("train", "val") for name in "ab"])
    train, test, sentence = labelled_splits(tmp_path)
    assert len(train) == len(test) == 6
    assert "'train'" in sentence
    assert "'val'" in sentence
    assert not {train.name(i) for i in range(6)} & {test.name(i) for i in range(6)}
    train, test, sentence = labelled_splits(tmp_path, limit=4)
    assert len(train) == len(test) == 4
    assert "at most 4" in sentence


def test_without_splits_a_fifth_of_each_class_is_tested(tmp_path):
    write_images(tmp_path, "abc", count=10)
    train, test, sentence = labelled_splits(tmp_path)
    names = [{part.name(i) for i in range(len(part))} for part in (train, test)]
    assert not names[0] & names[1]
    assert len(names[0] | names[1]) == 30
    assert [test[i].label for i in range(6)] == [0, 0, 1, 1, 2, 2]
    assert "fifth" in sentence
    again = split_labelled(open_dataset(tmp_path))[1]
    assert {again.name(i) for i in range(len(again))} == names[1]


def test_images_without_a_label_are_left_out(tmp_path):
    write_images(tmp_path / "i", "abc", count=4)
    with (tmp_path / "list.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label"])
        rows.writerows([f"i/{c}/{i}.png", "" if c == "c" else c] for c in "abc" for i in range(4))
    train, test, _ = labelled_splits(tmp_path / "list.csv")
    assert len(train) + len(test) == 8


def test_no_labels_is_a_data_error_with_a_cure(tmp_path):
    write_images(tmp_path, ["only"])
    paths = tmp_path / "list.txt"
    paths.write_text("\n".join(f"only/{i}.png" for i in range(3)))
    with pytest.raises(DataError, match="folder of its own"):
        labelled_splits(paths)


def test_stratified_shares():
    labels = torch.tensor([0] * 50 + [1] * 10 + [2] * 2 + [3])
    kept, held = stratified(labels, 0.2, seed=3)
    assert labels[held].bincount(minlength=4).tolist() == [10, 2, 1, 0]
    assert torch.cat([kept, held]).sort().values.tolist() == list(range(63))
    assert not torch.equal(held, stratified(labels, 0.2, seed=4)[1])
