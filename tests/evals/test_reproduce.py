"""Published beside measured, on a small tree that looks like ImageNet and a backbone that is a stub."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nexus.cli import reproducing
from nexus.errors import ConfigError, DataError
from nexus.evals import reproduce as module
from nexus.evals.reproduce import figures_of, plan_of, published, reproduce
from tests.evals.stubs import TinyBackbone

WNIDS = ("n01440764", "n01443537", "n02084071")


def image(path: Path, level: int, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 40, (32, 32, 3)) + level
    Image.fromarray(pixels.astype(np.uint8)).save(path, "JPEG")


@pytest.fixture
def folders(tmp_path):
    """ImageNet-1k with flat validation images and Kaggle's file, and two classes of ImageNet-R."""
    root = tmp_path / "imagenet"
    rows = ["ImageId,PredictionString"]
    for number, wnid in enumerate(WNIDS):
        for i in range(4):
            image(root / "train" / wnid / f"{i}.JPEG", 70 * number, i)
        image(root / "val" / f"ILSVRC2012_val_{number + 1:08d}.JPEG", 70 * number, 9)
        rows.append(f"ILSVRC2012_val_{number + 1:08d},{wnid} 1 2 3 4")
        if number < 2:
            image(tmp_path / "imagenet-r" / wnid / "a.jpg", 70 * number, 10)
    (root / "LOC_val_solution.csv").write_text("\n".join(rows))
    return root, tmp_path / "imagenet-r"


def test_published_beside_measured(folders, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(module, "STEPS", 20)
    data = ",".join(map(str, folders))
    result = reproduce(
        "dinov2_vits14", data, model=TinyBackbone(), size=32, device="cpu", cache="off", out=tmp_path / "r"
    )
    rows = {(row["benchmark"], row["what"]): row for row in result["table"]}
    assert {key: row["published"] for key, row in rows.items()} == {
        ("ImageNet-1k", "k-NN top-1"): pytest.approx(0.79),
        ("ImageNet-1k", "linear top-1"): pytest.approx(0.811),
        ("ImageNet-R", "linear top-1"): pytest.approx(0.537),
    }
    assert [row["samples"] for row in rows.values()] == [3, 3, 2]
    for row in rows.values():
        low, high = row["interval"]
        assert low <= row["measured"] <= high
    assert result["evaluations"]["ImageNet-1k"]["linear"]["steps"] == 20
    assert json.loads((tmp_path / "r" / "reproduce.json").read_text()) == result
    assert "2 of 30,000" in caplog.text


def test_what_is_needed_is_said_before_anything_is_done(folders, tmp_path):
    with pytest.raises(ConfigError, match="dinov2_vits14"):
        plan_of("dinov2_vits41", folders[0])
    with pytest.raises(DataError, match="ImageNet-1k, ImageNet-V2"):
        plan_of("dinov2_vits14", folders[0] / "train" / WNIDS[0])
    with pytest.raises(DataError, match="name its folder as well"):
        plan_of("dinov2_vits14", folders[1])
    (todo,) = plan_of("dinov2_vits14_reg", folders[0])
    assert [figure.task for figure in todo.figures] == ["knn", "linear"]


def test_the_command_prints_both(folders, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "STEPS", 5)
    monkeypatch.setattr("nexus.evals.evaluation.load_backbone", lambda model, encoder: TinyBackbone())
    reproducing.run("dinov2_vits14", str(folders[0]), None, size=32, device="cpu", cache="off", model=None)
    text = capsys.readouterr().out
    assert "ImageNet-1k" in text
    assert "81.1" in text
    assert "fixed beforehand" in text


def test_every_figure_has_its_source_and_is_a_share():
    assert all(figure.source and figure.protocol for figure in published())
    assert all(0 < value < 100 for figure in published() for value in figure.values.values())
    for figure in published():  # larger models were better up to L; a slip of the pen would show
        for tail in ("14", "14_reg"):
            row = [figure.values.get(f"dinov2_vit{size}{tail}") for size in "sblg"]
            small = sorted(row[:3], key=lambda value: value or 0, reverse=figure.unit == "m")
            assert row[:3] == small
            assert row[2] is None or abs(row[3] / row[2] - 1) < 0.12
    assert len(figures_of("dinov2_vits14")) == 9 + 2 + 3 + 3 + 2 + 2
    parts = {(figure.benchmark, figure.task, figure.part) for figure in published()}
    assert len(parts) == len(published())
