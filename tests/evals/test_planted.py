"""A signal that is there is found, and one that is not there is not: drawn shapes in random colours.

The class is the shape alone; place, size, colours and background are drawn anew. Raw patches of a coarse
edge map say the shape, so a backbone that computes one must be found out by every classification task, and
labels that were shuffled must leave all of them within the interval around chance.
"""

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch.nn import functional as F

from nexus.evals import evaluate
from tests.evals.stubs import TinyBackbone

SHAPES = ("disc", "bars", "checks")
SIDE = 32


def drawing(shape: str, rng: np.random.Generator) -> Image.Image:
    """One shape in two colours that say nothing."""
    front, back = (tuple(int(v) for v in rng.integers(0, 256, 3)) for _ in range(2))
    image = Image.new("RGB", (SIDE, SIDE), back)
    draw = ImageDraw.Draw(image)
    left, top = rng.integers(0, 9, 2)
    side = int(rng.integers(18, 24))
    if shape == "disc":
        draw.ellipse((left, top, left + side, top + side), fill=front)
    for i in range(6):
        for j in range(6):
            on = {"bars": i % 2 == 0, "checks": (i + j) % 2 == 0, "disc": False}[shape]
            x, y = left + i * side // 6, top + j * side // 6
            if on:
                draw.rectangle((x, y, x + side // 6, y + side // 6), fill=front)
    return image


class EdgeBackbone(TinyBackbone):
    """CLS: how much changes across and down the image, whatever its colours."""

    def __init__(self) -> None:
        super().__init__(dim=3, patch=8, blocks=1)

    def get_intermediate_layers(self, x, n=1, reshape=False, return_class_token=False, norm=True):
        across = F.pad((x[..., 1:] - x[..., :-1]).abs().sum(1, keepdim=True), (0, 1))
        down = F.pad((x[..., 1:, :] - x[..., :-1, :]).abs().sum(1, keepdim=True), (0, 0, 0, 1))
        edges = torch.cat([across, down], 1)
        edges = edges / edges.amax(dim=(1, 2, 3), keepdim=True).clamp_min(1e-6)
        edges = torch.cat([edges, torch.full_like(across, 0.2)], 1)  # for cosines, which ignore lengths
        tokens = F.avg_pool2d(edges, self.patch_size).flatten(2).transpose(1, 2)
        return ((tokens, tokens.mean(1)),)


def folder(root, shuffled: bool):
    rng = np.random.default_rng(0)
    for split, count in (("train", 120), ("test", 120)):
        shapes = [SHAPES[i % 3] for i in range(count)]
        labels = rng.permutation(shapes) if shuffled else shapes
        for i, (shape, label) in enumerate(zip(shapes, labels, strict=True)):
            place = root / split / str(label)
            place.mkdir(parents=True, exist_ok=True)
            drawing(shape, rng).save(place / f"{i}.png")
    return root


TASKS = ["knn", "linear", "logreg", "attentive"]
QUICK = {
    "knn": {"k": [10]},
    "linear": {"min_steps": 150, "epochs": 1, "learning_rates": [1.0, 10.0], "avgpool": [False]},
    "logreg": {"c": [0.1, 10, 1000]},
    "attentive": {"min_steps": 150, "epochs": 1, "learning_rates": [0.03], "batch_size": 64},
}


def measured(place, shuffled, tasks=TASKS, **more):
    settings = {name: QUICK[name] for name in tasks}
    data = folder(place, shuffled)
    return evaluate(data, EdgeBackbone(), tasks, size=SIDE, device="cpu", cache="off", **settings, **more)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """With true labels, and with labels that were shuffled."""
    return {s: measured(tmp_path_factory.mktemp("drawn"), s, baseline=False) for s in (False, True)}


@pytest.fixture(scope="module")
def pixels(tmp_path_factory):
    """What raw pixels know of the true labels."""
    return measured(tmp_path_factory.mktemp("drawn"), False, ["knn"])["baseline"]["knn"]


@pytest.mark.parametrize("task", TASKS)
def test_shapes_are_found_and_colours_do_not_say_them(results, pixels, task):
    found = results[False][task]
    assert found["value"] > 0.9
    assert found["interval"][0] > pixels["interval"][1]


@pytest.mark.parametrize("task", TASKS)
def test_random_labels_stay_within_the_interval_around_chance(results, task):
    found = results[True][task]
    low, high = found["interval"]
    assert low - 0.03 <= 1 / 3 <= high + 0.03
