"""Published figures of dense tasks and retrieval beside measured ones, on small trees in the real layouts."""

import pytest
import torch

from nexus.cli import reproducing
from nexus.errors import DataError
from nexus.evals.benchmarks import known_benchmark
from nexus.evals.reproduce import DENSE, _protocol, plan_of, reproduce
from nexus.models.vision import VisionTransformer
from tests.data import making_dense
from tests.evals.retrieval.test_search import oxford

LAYOUTS = {
    "ade20k": "ADE20K",
    "nyu_lists": "NYUv2",
    "nyu_folders": "NYUv2",
    "nyu_matlab": "NYUv2",
    "kitti_lists": "KITTI",
    "kitti_folders": "KITTI",
}
QUICK = {
    "segmentation": ("crop=32", "resolution=32", "iterations=2", "views=1"),
    "depth": ("resolution=32", "iterations=2", "views=1", "channels=8", "learning_rates=[0.01]"),
}


def tiny():
    torch.manual_seed(0)
    return VisionTransformer(img_size=32, patch_size=8, embed_dim=16, depth=4, num_heads=2).eval()


def quick(task):
    return [f"{task}.{setting}" for setting in QUICK[task]]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_are_recognised_and_planned(layout, tmp_path):
    place = getattr(making_dense, layout)(tmp_path)
    assert known_benchmark(place) == LAYOUTS[layout]
    (todo,) = plan_of("dinov2_vits14", place)
    assert (todo.benchmark, len(todo.figures)) == (LAYOUTS[layout], 2 if layout == "ade20k" else 3)
    settings = _protocol(todo)
    assert len(settings) == len(DENSE[todo.benchmark])
    assert all(setting.startswith(f"{todo.figures[0].task}.") for setting in settings)


def test_segmentation_beside_its_two_figures(tmp_path, caplog):
    place = making_dense.ade20k(tmp_path)
    result = reproduce("dinov2_vitb14", place, model=tiny(), device="cpu", overrides=quick("segmentation"))
    linear, ms = result["table"]
    found = result["evaluations"]["ADE20K"]["segmentation"]
    assert (linear["published"], ms["published"]) == (pytest.approx(0.473), pytest.approx(0.513))
    assert (linear["measured"], ms["measured"]) == (found["value"], found["parts"]["ms"]["value"])
    assert (found["head"], found["parts"]["ms"]["head"]) == ("linear", "ms")
    assert "published with 20,210" in caplog.text


def test_depth_beside_its_three_figures_in_metres(tmp_path, capsys):
    place = making_dense.kitti_lists(tmp_path)
    result = reproduce("dinov2_vitl14", place, model=tiny(), device="cpu", overrides=quick("depth"))
    assert [row["published"] for row in result["table"]] == [2.78, 2.5, 2.14]
    found = result["evaluations"]["KITTI"]["depth"]
    heads = [found, *(found["parts"][name] for name in ("linear4", "dpt"))]
    assert [row["measured"] for row in result["table"]] == [one["value"] for one in heads]
    assert {row["unit"] for row in result["table"]} == {"m"}
    reproducing.reproduction(result)
    text = capsys.readouterr().out
    assert "2.780 m" in text
    assert f"{found['value']:.3f} m" in text


@pytest.mark.parametrize("name", ["roxford5k", "rparis6k"])
def test_landmarks_beside_medium_and_hard(name, tmp_path):
    oxford(tmp_path)
    (tmp_path / "gnd_roxford5k.pkl").rename(tmp_path / f"gnd_{name}.pkl")
    result = reproduce("dinov2_vits14", tmp_path, model=tiny(), device="cpu", size=32, cache="off")
    medium, hard = result["table"]
    expected = {"roxford5k": (0.688, 0.432), "rparis6k": (0.846, 0.685)}[name]
    assert (medium["published"], hard["published"]) == pytest.approx(expected)
    (found,) = (evaluation["retrieval"] for evaluation in result["evaluations"].values())
    assert found["protocol"] == "medium"
    assert (medium["measured"], hard["measured"]) == (found["value"], found["parts"]["hard"]["value"])


def test_other_landmarks_and_other_folders_are_none(tmp_path):
    oxford(tmp_path / "mine", as_pickle=False)
    making_dense.folders(tmp_path / "pairs")
    for place in ("mine", "pairs", "nowhere"):
        assert known_benchmark(tmp_path / place) is None
    with pytest.raises(DataError, match="ADE20K, NYUv2, KITTI, Revisited Oxford"):
        plan_of("dinov2_vits14", tmp_path / "pairs")
