"""Objects as they are annotated, from every layout."""

import json

import numpy as np
import pytest
from pycocotools import mask as tools

from nexus.errors import DataError
from nexus.evals.instance.opening import open_objects
from tests.evals.instance import drawn

CROWD = {"size": [64, 64], "counts": [0, 64 * 64]}
EXTRA = [
    {
        "image_id": 100,
        "category_id": 3,
        "bbox": [0, 0, 64, 64],
        "area": 4096,
        "iscrowd": 1,
        "segmentation": CROWD,
    },
    {
        "image_id": 100,
        "category_id": 7,
        "bbox": [5, 5, 0, 9],
        "area": 0,
        "iscrowd": 0,
        "segmentation": [[5, 5, 5, 14, 5, 9]],
    },
]


def test_coco(tmp_path):
    train, test, sentence = open_objects(drawn.coco(tmp_path, extra=EXTRA))
    assert train.classes == test.classes == ("box", "disc")
    assert (len(train.objects), len(test.objects)) == (6, 4)
    assert train.has_masks
    assert "'train'" in sentence
    first = train.objects[0]
    assert first.crowd.tolist()[-2:] == [True, False]
    assert first.labels.tolist()[-2:] == [0, 1]
    assert len(first.trained_on()) == len(first) - 2
    assert tools.area(first.masks[-2]) == 64 * 64
    left, top, right, bottom = first.boxes[0]
    assert tools.area(first.masks[0]) == pytest.approx((right - left) * (bottom - top), rel=0.1)


def test_boxes_only_and_images_without_objects(tmp_path):
    root = drawn.coco(tmp_path, masks=False)
    path = root / "annotations" / "instances_val2017.json"
    content = json.loads(path.read_text())
    content["annotations"] = [one for one in content["annotations"] if one["image_id"] != 101]
    path.write_text(json.dumps(content))
    train, test, _ = open_objects(root)
    assert not train.has_masks
    assert len(test.objects[1]) == 0
    assert len(test.images) == 4


def test_voc(tmp_path):
    train, test, sentence = open_objects(drawn.voc(tmp_path))
    assert (len(train.objects), len(test.objects)) == (5, 1)
    assert test.objects[0].crowd.all()
    expected = drawn.drawn(np.random.default_rng(0))[1]
    assert test.objects[0].boxes.tolist() == [list(map(float, box)) for box in expected]
    assert "'trainval'" in sentence


def test_pack_of_boxes(tmp_path):
    train, test, _ = open_objects(drawn.pack(tmp_path / "p"))
    assert (len(train.objects), len(test.objects)) == (4, 2)
    assert train.classes == ("box", "disc")
    assert not train.has_masks


def test_pack_of_coco_json_and_a_fifth_without_splits(tmp_path):
    root = drawn.pack(tmp_path / "p", counts=(("all", 10),))
    images = [{"id": i, "file_name": f"all{i}.png", "width": 64, "height": 64} for i in range(10)]
    boxes = [{"id": i, "image_id": i, "category_id": 5, "bbox": [1, 2, 3, 4]} for i in range(10)]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 5, "name": "x"}]}
    (root / "instances.json").write_text(json.dumps(content))
    train, test, sentence = open_objects(root)
    assert (len(train.objects), len(test.objects)) == (8, 2)
    assert "fifth" in sentence
    assert test.objects[0].boxes.tolist() == [[1, 2, 4, 6]]


def test_limit(tmp_path):
    train, test, sentence = open_objects(drawn.coco(tmp_path), limit=3)
    assert (len(train.objects), len(test.objects)) == (3, 3)
    assert "at most 3" in sentence


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda c: c.pop("categories"), "has no categories"),
        (lambda c: c["annotations"][0].update(category_id=99), "category 99"),
        (lambda c: c["annotations"][0].update(image_id=5), "image 5"),
        (lambda c: [i.update(file_name=f"z{i['file_name']}") for i in c["images"]], "looked in"),
        (lambda c: c.update(annotations=[]), "nothing to learn"),
    ],
)
def test_wrong_files(tmp_path, change, match):
    path = drawn.coco(tmp_path) / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=match):
        open_objects(tmp_path)


def test_other_folders_name_the_layouts(tmp_path):
    with pytest.raises(DataError, match="Known layouts"):
        open_objects(tmp_path)
    with pytest.raises(DataError, match="Known layouts"):
        open_objects("synthetic:n=4,size=32")
