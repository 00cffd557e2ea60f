"""Robustness: what is scored, which classes compete, what is left out; on colours that a stub tells apart."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from nexus.errors import ConfigError, DataError
from nexus.evals import evaluate
from nexus.evals.class_mapping import match_classes, read_mapping
from nexus.evals.evaluation import plan
from tests.evals.stubs import TinyBackbone

COLOURS = {"red": (230, 20, 20), "green": (20, 230, 20), "blue": (20, 20, 230), "light blue": (90, 90, 230)}


class MeanColour(TinyBackbone):
    """CLS is the mean colour of the image."""

    def __init__(self) -> None:
        super().__init__(dim=3, patch=8, blocks=1)

    def get_intermediate_layers(self, x, n=1, reshape=False, return_class_token=False, norm=True):
        tokens = torch.nn.functional.avg_pool2d(x, self.patch_size).flatten(2).transpose(1, 2)
        return ((tokens, tokens.mean(1)),)


def pictures(root, classes, count, seed=0):
    """Folders of images in one colour with a little noise; `classes` is name → colour."""
    rng = np.random.default_rng(seed)
    for name, colour in classes.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            pixels = np.array(colour) + rng.integers(-15, 16, (32, 32, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / name / f"{i}.png")
    return root


@pytest.fixture
def colours(tmp_path):
    for split, seed in (("train", 0), ("test", 1)):
        pictures(tmp_path / "data" / split, COLOURS, 6, seed)
    return tmp_path / "data"


def robust(colours, tmp_path, **settings):
    settings = {"probe": "knn", "knn": {"k": [1]}, **settings}
    return evaluate(
        colours, MeanColour(), "robustness", size=32, device="cpu", baseline=False, robustness=settings
    )


def test_corruptions_by_kind_and_severity(colours, tmp_path):
    kinds = ["gaussian_noise", "fog", "pixelate"]
    found = robust(colours, tmp_path, corruptions=kinds, severities=[1, 5])
    result = found["robustness"]
    assert list(result["corruptions"]) == kinds
    shares = [share for row in result["corruptions"].values() for share in row.values()]
    assert len(shares) == 6
    assert result["value"] == pytest.approx(np.mean(shares))
    assert result["mean_corruption_error"] == pytest.approx(1 - result["value"])
    assert result["clean"] == result["parts"]["clean"]["value"] == 1.0
    assert result["kept"] == pytest.approx(result["value"])
    assert result["corruptions"]["pixelate"] == {"1": 1.0, "5": 1.0}  # the mean colour stays
    assert result["corruptions"]["fog"]["5"] < 1.0  # pale colours are mistaken
    assert set(result["groups"]) == {"noise", "weather", "digital"}
    assert [row["task"] for row in found["table"]] == ["robustness", "robustness/clean"]
    again = robust(colours, tmp_path, corruptions=kinds, severities=[1, 5])
    assert again["robustness"] == result


def test_another_test_set_by_name(colours, tmp_path):
    """`Red` is red; a light blue image is taken for light blue, unless that class is not in the set."""
    other = pictures(
        tmp_path / "other", {"Red": COLOURS["red"], "blue": COLOURS["light blue"], "pink": (9, 9, 9)}, 4
    )
    found = robust(colours, tmp_path, corruptions=[], test_sets=[str(other)])["robustness"]
    assert found["value"] == 1.0
    assert found["samples"] == 8
    assert found["chance"] == 0.5
    assert found["classes_without_counterpart"] == ["pink"]
    assert found["images_left_out"] == 4
    assert list(found["parts"]) == ["clean"]
    everything = pictures(tmp_path / "all", {**COLOURS, "blue": COLOURS["light blue"]}, 4)
    assert (
        robust(colours, tmp_path, corruptions=[], test_sets=[str(everything)])["robustness"]["value"] == 0.75
    )


def test_a_mapping_decides_and_what_it_does_not_name_is_left_out(colours, tmp_path):
    other = pictures(
        tmp_path / "other", {"rouge": COLOURS["red"], "bleu": COLOURS["blue"], "vert": (1, 1, 1)}, 3
    )
    with pytest.raises(DataError, match="none of the classes"):
        robust(colours, tmp_path, corruptions=[], test_sets=[str(other)])
    for name, text in (
        ("m.json", json.dumps({"rouge": "red", "bleu": "blue", "vert": None})),
        ("m.csv", "rouge,red\nbleu,blue\n"),
    ):
        (tmp_path / name).write_text(text)
        sets = {"test_sets": [str(other)], "mapping": str(tmp_path / name)}
        found = robust(colours, tmp_path, corruptions=["contrast"], severities=[1], **sets)["robustness"]
        assert found["parts"]["other"]["value"] == 1.0
        assert found["parts"]["other"]["samples"] == 6


def test_matching_names():
    wnids = ["n01440764", "n01443537", "n02084071"]
    assert match_classes(["0", "2", "5"], wnids) == [0, 2, None]
    assert match_classes(["n02084071_dog", "n01443537"], wnids) == [2, 1]
    assert match_classes(["T-Shirt", "hat"], ["hat", "t shirt"]) == [1, 0]
    assert match_classes(["a", "b"], ["x"], {"a": "x"}) == [0, None]
    with pytest.raises(DataError, match="did you mean 'green'"):
        match_classes(["a"], ["red", "green"], {"a": "gren"})


@pytest.mark.parametrize("text", ["{", "[1]", '{"a": [1]}'])
def test_a_mapping_that_is_none(tmp_path, text):
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(DataError, match="mapping"):
        read_mapping(tmp_path / "m.json")


def test_wrong_settings_say_so(colours, tmp_path):
    with pytest.raises(ConfigError, match="motion_blur"):
        robust(colours, tmp_path, corruptions=["motion_blurr"])
    with pytest.raises(ConfigError, match="both empty"):
        robust(colours, tmp_path, corruptions=[])
    with pytest.raises(ConfigError, match="5 or less"):
        robust(colours, tmp_path, severities=[6])


def test_the_picture_shows_every_kind(colours):
    todo = plan(colours, "robustness", size=32, overrides={"robustness.probe": "knn"})
    (result,) = todo.run(todo.context(MeanColour())).values()
    sheet, confusion, mistakes = result.pictures()
    assert sheet.image.width > 4 * 112
    assert sheet.image.height > 5 * 112
    assert "corrupted" in confusion.caption
    names = [mistake["name"] for mistake in result.details["mistakes"]]
    assert len(set(names)) == len(names) > 1  # the same image under another corruption is not another
    counts = result.details["confusion"]["counts"]
    assert sum(map(sum, counts)) == 15 * len(result.names)
    assert sum(row[i] for i, row in enumerate(counts)) == pytest.approx(15 * len(result.names) * result.value)
    assert mistakes.title == "Worst mistakes"
