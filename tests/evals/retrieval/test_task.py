"""The task from files to figures: a planted signal is found, planted noise is not."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image

from nexus.errors import ConfigError, DataError
from nexus.evals import evaluate
from nexus.evals.context import EvalContext
from nexus.evals.registry import task_named
from nexus.evals.retrieval import RetrievalConfig
from nexus.evals.retrieval.features import generalised_mean
from nexus.features import View
from tests.evals.retrieval.test_search import oxford
from tests.evals.stubs import TinyBackbone

GROUPS, EACH = 8, 4


def coloured(folder, header=("path", "group"), broken=(), extra=lambda group, member: ()):
    """Images whose colour is that of their group, with some noise, and a few distractors."""
    rng = np.random.default_rng(0)
    rows = []
    for group in range(GROUPS):
        colour = rng.integers(30, 225, 3)
        for member in range(EACH):
            name = f"{group}_{member}.png"
            pixels = (colour + rng.normal(0, 4, (24, 24, 3))).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name)
            rows.append((name, group, *extra(group, member)))
    for name in broken:
        (folder / name).write_bytes(b"no image")
    with (folder / "list.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return folder / "list.csv"


def shuffled(path):
    rows = list(csv.reader(path.read_text().splitlines()))
    order = np.random.default_rng(1).permutation(len(rows) - 1)
    groups = [rows[1 + i][1] for i in order]
    path.write_text("path,group\n" + "\n".join(f"{r[0]},{g}" for r, g in zip(rows[1:], groups, strict=True)))
    return path


def found_by(spec, config=None, backbone=None, **settings):
    torch.manual_seed(0)
    backbone = backbone or TinyBackbone()
    context = EvalContext(backbone=backbone.eval(), data=spec, view=View(size=16, batch_size=8), **settings)
    return task_named("retrieval").run(context, config or RetrievalConfig())


@pytest.mark.parametrize("feature", ["cls", "mean_patch", "cls_mean", "gem"])
def test_a_planted_signal_is_found(tmp_path, feature):
    result = found_by(coloured(tmp_path), RetrievalConfig(feature=feature))
    assert result.value > 3 * result.chance
    assert len(result.names) == GROUPS * EACH
    assert result.score(torch.arange(len(result.names))) == pytest.approx(result.value)
    assert result.details["recall"]["1"] == result.details["precision"]["1"] > 0.7


def test_planted_noise_is_not(tmp_path):
    result = evaluate(shuffled(coloured(tmp_path)), TinyBackbone(), "retrieval", size=16, device="cpu")
    for found in (result["retrieval"], result["baseline"]["retrieval"]):
        assert found["interval"][0] - 0.02 < found["chance"] < found["interval"][1] + 0.02


def test_copies_by_transform_and_pictures(tmp_path):
    kinds = ("original", "jpeg", "rot", "blur")
    spec = coloured(tmp_path, ("path", "group", "transform"), extra=lambda group, member: (kinds[member],))
    result = found_by(spec)
    changes = result.details["transforms"]
    assert {name: value["queries"] for name, value in changes.items()} == dict.fromkeys(kinds[1:], GROUPS)
    assert np.mean([value["mAP"] for value in changes.values()]) == pytest.approx(result.value)
    bars, sheet = result.pictures()
    assert "hard" in bars.title
    assert sheet.image.width > 6 * 112


def test_unreadable_images_are_left_out_and_listed(tmp_path):
    result = found_by(coloured(tmp_path, broken=["0_0.png", "3_2.png"]))
    assert result.unreadable == ("0_0.png", "3_2.png")
    assert len(result.names) == GROUPS * EACH - 2
    assert result.value > 3 * result.chance


def test_whitening_needs_and_uses_a_training_split(tmp_path):
    spec = coloured(tmp_path)
    with pytest.raises(ConfigError, match="training split"):
        found_by(spec, RetrievalConfig(whiten=2))
    halves = coloured(tmp_path, ("path", "group", "split"), extra=lambda g, m: (("train", "test")[g % 2],))
    result = found_by(halves, RetrievalConfig(whiten=2))
    assert result.details["groups"] == GROUPS // 2
    assert result.value > 1.5 * result.chance


def test_landmarks_have_a_row_for_each_protocol(tmp_path):
    result = evaluate(oxford(tmp_path), TinyBackbone(), "retrieval", size=16, device="cpu", baseline=False)
    assert [row["task"] for row in result["table"]] == ["retrieval", "retrieval/easy", "retrieval/hard"]
    assert result["retrieval"]["samples"] == 2
    assert result["retrieval"]["parts"]["easy"]["samples"] == 1
    assert list(result["retrieval"]["precision"]) == ["1", "5", "10"]


def test_queries_without_an_answer_everywhere_are_an_error(tmp_path):
    coloured(tmp_path)
    rows = [("0_0.png", 1, "query"), ("1_0.png", 2, "gallery")]
    with (tmp_path / "two.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "group", "split"), *rows])
    with pytest.raises(DataError, match="no query has a right image"):
        found_by(tmp_path / "two.csv")


def test_generalised_mean():
    patches = torch.tensor([[[1.0, -5.0], [2.0, 4.0]]])
    torch.testing.assert_close(generalised_mean(patches, 1.0), torch.tensor([[1.5, 2.0]]))
    torch.testing.assert_close(
        generalised_mean(patches, 3.0), torch.tensor([[4.5 ** (1 / 3), 32 ** (1 / 3)]])
    )
