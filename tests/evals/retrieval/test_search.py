"""From lists, packs and landmark files to queries, gallery and right answers."""

import csv
import json
import pickle
import tarfile

import numpy as np
import pytest
from PIL import Image

from nexus.errors import ConfigError, DataError
from nexus.evals.retrieval import RetrievalConfig, open_search


def images(folder, names, side=20):
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((side, side + 4, 3), 6 * number, np.uint8)).save(folder / name)


def listed(folder, header, rows):
    images(folder, [row[0] for row in rows])
    with (folder / "list.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return folder / "list.csv"


def names_of(dataset):
    return [dataset.name(i) for i in range(len(dataset))]


def test_groups_of_a_list_leave_one_out(tmp_path):
    rows = [
        ("a.png", 7),
        ("b.png", 7),
        ("c.png", -1),
        ("d.png", ""),
        ("e.png", 3),
        ("f.png", "x"),
        ("g.png", "x"),
    ]
    found = open_search(listed(tmp_path, ("path", "group"), rows), RetrievalConfig(), None)
    assert names_of(found.queries) == ["a.png", "b.png", "f.png", "g.png"]
    assert len(found.gallery) == 7
    (truth,) = found.truths.values()
    assert [rows.tolist() for rows in truth.of(0)] == [[1], [0]]
    assert [rows.tolist() for rows in truth.of(3)] == [[5], [6]]
    assert found.facts == {"groups": 3, "distractors": 2}
    assert "each of 4" in found.sentence


def copies(folder):
    kinds = ["original", "jpeg", "rot"]
    rows = [(f"g{g}_{kind}.png", g, kind) for g in range(3) for kind in kinds]
    return [*rows, ("d0.png", -1, "original"), ("d1.png", -1, "")]


def test_copies_look_for_originals(tmp_path):
    found = open_search(
        listed(tmp_path, ("path", "group", "transform"), copies(tmp_path)), RetrievalConfig(), None
    )
    assert found.transforms == ("jpeg", "rot") * 3
    assert names_of(found.gallery) == [
        "g0_original.png",
        "g1_original.png",
        "g2_original.png",
        "d0.png",
        "d1.png",
    ]
    assert [rows.tolist() for rows in found.truths["copies"].of(2)] == [[1], []]
    other = open_search(tmp_path / "list.csv", RetrievalConfig(protocol="leave_one_out"), None)
    assert len(other.queries) == 9


def test_a_pack_with_groups(tmp_path):
    rows = copies(tmp_path)
    images(tmp_path, [row[0] for row in rows])
    with tarfile.open(tmp_path / "x-all.tar", "w") as archive:
        for row in rows:
            archive.add(tmp_path / row[0], row[0])
    with (tmp_path / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [("key", "split", "file", "group", "transform"), *(("k", "all", *r) for r in rows)]
        )
    found = open_search(tmp_path, RetrievalConfig(), None)
    assert len(found.queries) == 6
    assert len(found.gallery) == 5


def test_query_and_gallery_splits(tmp_path):
    rows = [("a.png", 1, "query"), ("b.png", 1, "gallery"), ("c.png", 2, "gallery"), ("d.png", 2, "train")]
    found = open_search(listed(tmp_path, ("path", "group", "split"), rows), RetrievalConfig(), None)
    assert names_of(found.queries) == ["a.png"]
    assert names_of(found.gallery) == ["b.png", "c.png"]
    assert names_of(found.train) == ["d.png"]
    assert found.truths["query_gallery"].of(0)[0].tolist() == [0]


def test_class_labels_as_groups(tmp_path):
    images(tmp_path, [f"{split}/{c}/{i}.png" for split in ("train", "test") for c in "ab" for i in range(3)])
    found = open_search(tmp_path, RetrievalConfig(), None)
    assert "query_gallery" in found.truths
    assert found.truths["query_gallery"].of(5)[0].tolist() == [3, 4, 5]
    alone = open_search(tmp_path, RetrievalConfig(protocol="leave_one_out"), None)
    assert len(alone.gallery) == 6
    with pytest.raises(DataError, match="column `group`"):
        open_search(tmp_path, RetrievalConfig(groups="group"), None)


def test_limit_keeps_groups_whole(tmp_path):
    rows = [(f"{i}.png", i // 3 if i < 30 else -1) for i in range(40)]
    found = open_search(listed(tmp_path, ("path", "group"), rows), RetrievalConfig(), 12)
    assert 12 <= len(found.gallery) <= 14
    assert len(found.queries) % 3 == 0
    assert all(len(found.truths["leave_one_out"].of(i)[0]) == 2 for i in range(len(found.queries)))


def test_nothing_to_find_is_said(tmp_path):
    path = listed(tmp_path, ("path", "group"), [("a.png", 1), ("b.png", 2), ("c.png", -1)])
    with pytest.raises(DataError, match="no group has two images"):
        open_search(path, RetrievalConfig(), None)
    with pytest.raises(ConfigError, match="`transform`"):
        open_search(path, RetrievalConfig(protocol="copies"), None)
    with pytest.raises(ConfigError, match="gnd_"):
        open_search(path, RetrievalConfig(protocol="landmarks"), None)
    bare = listed(tmp_path / "n", ("path", "note"), [("a.png", "x")])
    with pytest.raises(DataError, match="path,group"):
        open_search(bare, RetrievalConfig(), None)


# -- landmarks ------------------------------------------------------------------------------------------

GROUND = {
    "imlist": [f"im{i}" for i in range(6)],
    "qimlist": ["q0", "q1"],
    "gnd": [
        {"easy": [0, 1], "hard": [2], "junk": [3], "bbx": [2.0, 1.0, 12.6, 9.0]},
        {"easy": [], "hard": [4], "junk": [], "bbx": [0.0, 0.0, 500.0, 500.0]},
    ],
}


def oxford(folder, content=GROUND, as_pickle=True):
    images(folder / "jpg", [f"{name}.jpg" for name in (*GROUND["imlist"], *GROUND["qimlist"])])
    if as_pickle:
        arrays = [{key: np.array(value) for key, value in entry.items()} for entry in content["gnd"]]
        (folder / "gnd_roxford5k.pkl").write_bytes(pickle.dumps({**content, "gnd": arrays}))
    else:
        (folder / "gnd_mine.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("as_pickle", [True, False])
def test_landmarks(tmp_path, as_pickle):
    found = open_search(oxford(tmp_path, as_pickle=as_pickle), RetrievalConfig(difficulty="hard"), None)
    assert list(found.truths) == ["hard", "easy", "medium"]
    as_lists = {name: [sorted(rows.tolist()) for rows in truth.of(0)] for name, truth in found.truths.items()}
    assert as_lists == {
        "easy": [[0, 1], [2, 3]],
        "medium": [[0, 1, 2], [3]],
        "hard": [[2], [0, 1, 3]],
    }
    assert found.truths["easy"].of(1)[0].tolist() == []
    assert found.queries[0].image.size == (11, 8)
    assert found.queries[1].image.size == (24, 20)
    assert names_of(found.gallery)[0] == "im0.jpg"
    assert ("released set has 70 in 4,993" in found.sentence) is as_pickle
    assert found.trapezoids


class Evil:
    def __reduce__(self):
        return exec, ("raise SystemExit('ran')",)


def test_a_pickle_that_runs_code_is_refused_unread(tmp_path):
    oxford(tmp_path)
    (tmp_path / "gnd_roxford5k.pkl").write_bytes(pickle.dumps({"imlist": Evil()}))
    with pytest.raises(DataError, match="exec"):
        open_search(tmp_path, RetrievalConfig(), None)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ({"imlist": ["a"]}, "needs imlist, qimlist and gnd"),
        ({"imlist": ["a"], "qimlist": ["q"], "gnd": [{"easy": [3]}]}, "image 3 of 1"),
        ({"imlist": ["a"], "qimlist": ["q", "r"], "gnd": [{"easy": [0]}]}, "2 queries"),
        ([1], "not the dictionary"),
    ],
)
def test_wrong_ground_truth(tmp_path, content, match):
    (tmp_path / "gnd_x.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=match):
        open_search(tmp_path, RetrievalConfig(), None)
    (tmp_path / "gnd_x.json").write_text("{")
    with pytest.raises(DataError, match="damaged"):
        open_search(tmp_path, RetrievalConfig(), None)
