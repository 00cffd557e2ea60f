"""Images with label maps and depth maps: every layout is recognised, and every wrong file said clearly."""

import logging

import numpy as np
import pytest
from PIL import Image

from nexus.data.dense import VOID, DepthReader, LabelReader, open_depth, open_labels
from nexus.data.dense.archives import scale_beside
from nexus.data.dense.class_names import read_palette
from nexus.errors import DataError, ImageError
from tests.data import making_dense as making


def by_level(dataset) -> dict[int, int]:
    """Which picture each position shows, by its grey level."""
    return {i: round((np.asarray(dataset.image(i)).mean() - 20) / 10) for i in range(len(dataset))}


@pytest.mark.parametrize("layout", making.LABEL_LAYOUTS)
def test_label_layouts(layout, tmp_path):
    source = open_labels(making.LABEL_LAYOUTS[layout](tmp_path))
    assert len(source.train) >= 1 <= len(source.test)
    count = 21 if layout == "voc" else 3
    assert len(source.train.classes) == len(source.test.classes) == count
    for part in (source.train, source.test):
        for position, number in by_level(part).items():
            expected = making.labels(number).astype(np.int32)
            expected[expected == 255] = VOID
            assert np.array_equal(part[position].truth, expected)
    assert ("fifth" in source.sentence) == (layout == "folders")


@pytest.mark.parametrize("layout", making.DEPTH_LAYOUTS)
def test_depth_layouts(layout, tmp_path):
    source = open_depth(making.DEPTH_LAYOUTS[layout](tmp_path))
    assert len(source.train) >= 2 > len(source.test) == 1
    for part in (source.train, source.test):
        for position, number in by_level(part).items():
            assert part[position].truth == pytest.approx(making.metres(number), abs=0.003)
    assert "depth: " in source.assumed[0]
    expected = {"pack": "none", "NYUv2": "nyu", "KITTI": "garg"}[layout.split()[0]]
    assert source.layout.eval_crop == expected


def test_names_classes_and_sizes(tmp_path, caplog):
    ade = open_labels(making.ade20k(tmp_path / "ade"))
    assert ade.train.classes == ("wall", "sky", "tree")
    assert "published with 20,210" in caplog.text
    assert open_labels(making.pack(tmp_path / "pack")).train.classes == ("a", "b", "c")
    voc = open_labels(making.voc(tmp_path / "voc"))
    assert voc.train.classes[:2] == ("background", "aeroplane")
    folders = making.folders(tmp_path / "plain")
    assert "up to 2" in open_labels(folders).assumed[0]
    assert len(open_labels(folders, classes=7).train.classes) == 7
    void = open_labels(folders, zero="void")
    assert len(void.train.classes) == 2
    assert set(np.unique(void.train.truth(0))) == {VOID, 0, 1}


def test_limit_is_a_fixed_draw(tmp_path):
    source = open_labels(making.folders(tmp_path, count=20), limit=3)
    assert [len(source.train), len(source.test)] == [3, 3]
    again = open_labels(tmp_path, limit=3)
    assert [p.name for p in again.train.pairs] == [p.name for p in source.train.pairs]


def test_images_alone_are_left_out_and_said(tmp_path, caplog):
    making.folders(tmp_path)
    making.save(tmp_path / "images" / "alone.jpg", making.grey(9))
    making.save(tmp_path / "masks" / "extra_mask.png", making.labels(0))
    with caplog.at_level(logging.WARNING):
        source = open_labels(tmp_path)
    assert len(source.train) + len(source.test) == 4
    assert "1 images have no label map" in caplog.text
    assert "alone.jpg" in caplog.text
    assert "1 label maps have no image" in caplog.text


def test_nothing_fits(tmp_path):
    making.save(tmp_path / "images" / "a.jpg", making.grey(0))
    making.save(tmp_path / "masks" / "b.png", making.labels(0))
    with pytest.raises(DataError, match=r"none of 1 images has a label map.*a\.jpg.*b\.png.*same name"):
        open_labels(tmp_path)


def test_two_truths_of_one_image(tmp_path):
    making.folders(tmp_path)
    making.save(tmp_path / "masks" / "0_mask.png", making.labels(0))
    with pytest.raises(DataError, match="could both be the label map"):
        open_labels(tmp_path)


@pytest.mark.parametrize("ending", ["_mask", "_L", "-seg", "_gtFine_labelIds"])
def test_decorated_names_find_their_image(tmp_path, ending):
    for i in range(4):
        making.save(tmp_path / "rgb" / "x" / f"{i}.png", making.grey(i))
        making.save(tmp_path / "labels" / "x" / f"{i}{ending}.png", making.labels(i))
    source = open_labels(tmp_path)
    assert len(source.train) + len(source.test) == 4


def test_colour_pictures_need_a_palette(tmp_path):
    for i in range(4):
        stored = making.labels(i)
        stored[0] = 0
        making.save(tmp_path / "images" / f"{i}.jpg", making.grey(i))
        colours = np.array([making.COLOURS[k] for k in range(3)], dtype=np.uint8)[stored]
        making.save(tmp_path / "masks" / f"{i}.png", colours)
    with pytest.raises(DataError, match=r"colour picture.*segmentation\.palette=FILE"):
        open_labels(tmp_path)
    lines = [f"{r} {g} {b}\tclass {k}" for k, (r, g, b) in making.COLOURS.items()]
    (tmp_path / "p.txt").write_text("\n".join(lines))
    source = open_labels(tmp_path, palette=str(tmp_path / "p.txt"))
    assert set(np.unique(source.train.truth(0))) == {0, 1, 2}
    (tmp_path / "class_dict.csv").write_text("name,r,g,b\nsky,128,0,0\nroad,0,128,0\ncar,0,0,128")
    assert open_labels(tmp_path).train.classes == ("sky", "road", "car")
    (tmp_path / "p.txt").write_text(lines[0] + "\n" + lines[1])
    with pytest.raises(DataError, match=r"1 colours.*\(0, 0, 128\)"):
        open_labels(tmp_path, palette=str(tmp_path / "p.txt")).train.truth(0)
    (tmp_path / "p.txt").write_text("1 2 name")
    with pytest.raises(DataError, match="red green blue name"):
        read_palette(tmp_path / "p.txt")


def test_numbers_of_any_width():
    stored = np.array([[0, 1], [2, 255]])
    expected = [[0, 1], [2, VOID]]
    read = LabelReader((0, 1, 2))
    assert read(making.encoded(stored.astype(np.uint16)), "a").tolist() == expected
    assert read(making.encoded(np.repeat(stored[..., None], 3, 2).astype(np.uint8)), "a").tolist() == expected
    assert LabelReader((0, 1))(making.encoded(np.array([[True, False]])), "a").tolist() == [[1, 0]]
    skipping = LabelReader((1, 4), ignored=(0, 2))
    assert skipping(making.encoded(np.array([[0, 1, 4, 2]], dtype=np.uint8)), "a").tolist() == [
        [VOID, 0, 1, VOID]
    ]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            making.encoded(np.array([[0, 7]], dtype=np.uint8)),
            "number 7, but there are 3 classes.*classes=N",
        ),
        (making.encoded(np.array([[0, 60000]], dtype=np.uint16)), "60000"),
        (making.encoded(np.array([[0, 1]], dtype=np.uint8), "JPEG"), "JPEG"),
        (making.encoded(np.array([[0, 0.5]], dtype=np.float32), "TIFF"), "not whole"),
    ],
)
def test_wrong_label_maps(data, message):
    with pytest.raises(DataError, match=message):
        LabelReader((0, 1, 2))(data, "m.png")


def test_damaged_label_map_is_an_image_error():
    with pytest.raises(ImageError, match=r"m\.png"):
        LabelReader((0, 1))(making.encoded(making.labels(0))[:40], "m.png")


def test_all_void_without_names(tmp_path):
    making.folders(tmp_path)
    for file in (tmp_path / "masks").iterdir():
        making.save(file, np.full((16, 24), 255, dtype=np.uint8))
    with pytest.raises(DataError, match="all are void"):
        open_labels(tmp_path)


def test_depth_units(tmp_path, caplog):
    stored = np.array([[0, 2560]], dtype=np.uint16)
    assert DepthReader(256.0)(making.encoded(stored), "a").tolist() == [[0.0, 10.0]]
    floats = np.array([[np.nan, -1.0, np.inf, 2.5]], dtype=np.float32)
    assert DepthReader()(making.encoded(floats, "TIFF"), "a").tolist() == [[0.0, 0.0, 0.0, 2.5]]
    with pytest.raises(DataError, match="8 bits"):
        DepthReader(1.0)(making.encoded(np.zeros((4, 4), np.uint8)), "a")
    with pytest.raises(DataError, match=r"depth\.scale"):
        DepthReader()(making.encoded(stored), "a")
    for i in range(4):
        making.save(tmp_path / "images" / f"{i}.png", making.grey(i))
        making.save(tmp_path / "depth" / f"{i}.png", making.millimetres(i))
    source = open_depth(tmp_path)
    assert "millimetres, because nothing says otherwise" in source.assumed[0]
    assert source.train.truth(0).max() == pytest.approx(3, abs=0.05)
    assert open_depth(tmp_path, scale=100).train.truth(0).max() == pytest.approx(30, abs=0.5)
    (tmp_path / "README.md").write_text("depth is uint16, metres*256")
    assert scale_beside(tmp_path)[0] == 256


def test_sizes(tmp_path):
    """Half the size is welcome; another aspect, or a turned image, is an error."""
    for i in range(3):
        making.save(tmp_path / "images" / f"{i}.png", making.grey(i))
        making.save(tmp_path / "masks" / f"{i}.png", making.labels(i)[::2, ::2])
    (tmp_path / "classes.txt").write_text("a\nb\nc")
    assert open_labels(tmp_path).train[0].truth.shape == (8, 12)
    for i in range(3):
        making.save(tmp_path / "masks" / f"{i}.png", making.labels(i).T.copy())
    with pytest.raises(DataError, match=r"24 × 16 .* 16 × 24.*EXIF"):
        open_labels(tmp_path).train[0]


def test_lists_with_missing_files(tmp_path):
    making.nyu_lists(tmp_path)
    (tmp_path / "sync" / "kitchen" / "rgb_00001.jpg").unlink()
    with pytest.raises(DataError, match=r"names 3 pairs, but 1 are not there.*rgb_00001"):
        open_depth(tmp_path)


def test_what_is_no_such_source(tmp_path):
    Image.fromarray(making.grey(0)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="no images with a depth map"):
        open_depth(tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        open_labels(tmp_path / "b")
    making.folders(tmp_path / "one", count=1)
    with pytest.raises(DataError, match="one image is not enough"):
        open_labels(tmp_path / "one")
