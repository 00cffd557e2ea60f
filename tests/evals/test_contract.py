"""The contract: any task gets its interval, its baseline, its settings; raw pixels are a backbone."""

import math
import sys
import types

import numpy as np
import pytest
import torch

from nexus.config import Config
from nexus.errors import ConfigError
from nexus.evals import EvalContext, LinearConfig, Task, TaskResult, evaluate
from nexus.evals.bootstrap import bootstrap_scores, percentile_interval, resampled
from nexus.evals.pixels import PixelBackbone
from nexus.evals.registry import TASKS, _all_settings, task_configs, task_named
from nexus.evals.results import entry
from nexus.evals.task import mean_score, over_seeds
from nexus.features import Backbone, View, raw_pixels
from nexus.models.vision import VisionTransformer
from tests.evals.stubs import TinyBackbone

SPEC = "synthetic:n=40,size=32,classes=2"


class BrightnessConfig(Config):
    """How bright the images are."""

    factor: float = 1.0
    """What the brightness is multiplied by."""


def brightness(context: EvalContext, config: BrightnessConfig) -> TaskResult:
    """The mean of the first feature of the test images."""
    _, test, split = context.labelled()
    found = context.features(test)
    values = config.factor * found.cls[:, 0]
    half = TaskResult(metric="half", value=0.5, names=found.names, score=lambda rows: 0.5, unit="m")
    return TaskResult(
        metric="brightness",
        value=float(values.double().mean()),
        names=found.names,
        score=mean_score(values),
        higher_is_better=False,
        unit="lm",
        split=split,
        details={"factor": config.factor},
        parts={"half": half},
    )


@pytest.fixture
def with_brightness(monkeypatch):
    """The registry with one line more."""
    module = types.ModuleType("brightness_task")
    module.TASK = Task("brightness", "how bright", BrightnessConfig, brightness)
    monkeypatch.setitem(sys.modules, "brightness_task", module)
    monkeypatch.setitem(TASKS, "brightness", "brightness_task")
    _all_settings.cache_clear()
    yield
    _all_settings.cache_clear()


@pytest.mark.usefixtures("with_brightness")
def test_a_task_of_one_file_and_one_line_gets_everything():
    result = evaluate(
        SPEC, TinyBackbone(), "knn,brightness", size=32, device="cpu", overrides=["brightness.factor=2"]
    )
    found = result["brightness"]
    assert found["factor"] == 2
    assert found["interval"][0] < found["value"] < found["interval"][1]
    assert [(row["features"], row["task"], row["unit"]) for row in result["table"]] == [
        ("model", "knn", "%"),
        ("raw pixels", "knn", "%"),
        ("model", "brightness", "lm"),
        ("raw pixels", "brightness", "lm"),
        ("model", "brightness/half", "m"),
        ("raw pixels", "brightness/half", "m"),
    ]
    assert found["split"] == result["split"]


def test_settings_come_from_objects_mappings_and_words():
    given = {"linear": LinearConfig(epochs=3), "knn": {"k": [5]}}
    configs = task_configs(["knn", "linear"], given, ["linear.batch_size=7"])
    assert (configs["linear"].epochs, configs["linear"].batch_size) == (3, 7)
    assert configs["knn"].k == (5,)
    for wrong, said in (
        (["linear.epoch=5"], "linear.epochs"),
        (["linaer.epochs=5"], "linear.epochs"),
        (["linear.epochs=x"], "whole number"),
    ):
        with pytest.raises(ConfigError, match=said):
            task_configs(["knn", "linear"], {}, wrong)
    with pytest.raises(ConfigError, match="add it to the tasks"):
        task_configs(["knn"], {}, ["linear.epochs=5"])


@pytest.mark.parametrize("name", TASKS)
def test_every_registered_task_keeps_its_name(name):
    task = task_named(name)
    assert task.name == name
    assert task.layers(task.config()) >= 1


def test_tasks_share_one_extraction_of_the_most_layers():
    backbone = TinyBackbone()
    context = EvalContext(backbone=backbone, data=SPEC, view=View(size=32), layers=2)
    train, _, _ = context.labelled()
    assert context.labelled()[0] is train
    first = context.features(train)
    assert first.layer_cls.shape == (32, 2, 6)
    assert context.features(train, layers=2) is first
    assert context.features(train, layers=9).layer_cls.shape == (32, 3, 6)
    assert sum(shape[0] for shape in backbone.shapes) == 64


def test_patches_and_looks_are_those_of_the_backbone():
    backbone = TinyBackbone().eval()
    context = EvalContext(backbone=backbone, data=SPEC, view=View(size=32, batch_size=9))
    _, test, _ = context.labelled()
    table = context.patches(test)
    assert table.patches.shape == (8, 16, 6)
    torch.testing.assert_close(table.patches.float().mean(1), table.features.mean_patch, atol=1e-3, rtol=1e-3)
    pixels = torch.randint(0, 256, (2, 3, 32, 24), dtype=torch.uint8)
    seen = context.look(context.normalized(pixels), layers=[1, 3])
    assert seen.layers[1].patches.shape == (2, 6, 4, 3)
    head = torch.nn.Conv2d(6, 1, 1)
    head(seen.patches).sum().backward()  # what inference mode made would refuse this
    assert head.weight.grad is not None


# -- raw pixels -------------------------------------------------------------------------------------------


def test_pixel_tokens_are_the_pixels():
    like = VisionTransformer(img_size=32, patch_size=8, embed_dim=12, depth=2, num_heads=2)
    pixels = PixelBackbone(like)
    assert isinstance(pixels, Backbone)
    assert not [name for name, _ in pixels.named_parameters() if "like" in name]
    images = torch.randn(2, 3, 16, 24)
    patches, cls = pixels.get_intermediate_layers(images, 1, return_class_token=True)[0]
    assert patches.shape == (2, 6, pixels.embed_dim) == (2, 6, 192)
    for row, col in np.ndindex(2, 3):
        square = images[:, :, 8 * row : 8 * row + 8, 8 * col : 8 * col + 8]
        assert torch.equal(patches[:, 3 * row + col], square.flatten(1))
    assert cls.shape == (2, 192)
    torch.testing.assert_close(cls.mean(), images.mean())
    (grid,) = pixels.get_intermediate_layers(images, [0], reshape=True)
    assert torch.equal(grid[:, :, 1, 2], patches[:, 5])


def test_the_feature_table_of_pixels_is_the_baseline():
    like = VisionTransformer(img_size=32, patch_size=8, embed_dim=12, depth=2, num_heads=2)
    context = EvalContext(backbone=like, data=SPEC, layers=2).on_pixels()
    assert context.is_baseline
    _, test, _ = context.labelled()
    found, mirrored = context.features(test, layers=4), context.features(test, flip=True)
    assert torch.equal(found.cls, raw_pixels(test, like=like).cls)
    assert torch.equal(mirrored.cls.view(-1, 3, 32, 32), found.cls.view(-1, 3, 32, 32).flip(-1))


# -- intervals and seeds ----------------------------------------------------------------------------------


def test_the_interval_of_a_mean_is_the_closed_form():
    values = torch.randn(300, generator=torch.Generator().manual_seed(1)) + 2
    low, high = percentile_interval(bootstrap_scores(mean_score(values), 300, 2000))
    half = 1.96 * float(values.std()) / math.sqrt(300)
    assert low == pytest.approx(float(values.mean()) - half, abs=0.015)
    assert high == pytest.approx(float(values.mean()) + half, abs=0.015)


def test_resamples_are_the_same_for_the_same_seed_and_may_lack_a_score():
    first, second = (list(resampled(7, 3, 5)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert percentile_interval(torch.tensor([1.0, 1.0, math.nan], dtype=torch.float64)) == [1, 1]


def test_several_seeds_are_a_mean_and_a_spread():
    def one(values):
        return TaskResult(
            metric="top1",
            value=float(values.mean()),
            names=("a", "b", "c", "d"),
            score=mean_score(values),
            details={"top1": float(values.mean())},
        )

    both = over_seeds([one(torch.tensor([1.0, 1, 0, 0])), one(torch.tensor([1.0, 1, 1, 0]))])
    assert both.value == both.details["top1"] == both.score(torch.arange(4)) == 0.625
    found = entry(both)
    assert found["seeds"] == [0.5, 0.75]
    assert found["seeds_std"] == pytest.approx(np.std([0.5, 0.75], ddof=1))
    assert "seeds" not in entry(one(torch.tensor([1.0, 1, 0, 0])))


def test_linear_trains_once_for_each_seed():
    result = evaluate(
        SPEC,
        TinyBackbone(),
        "linear",
        size=32,
        seeds=2,
        baseline=False,
        linear={"min_steps": 3, "epochs": 1, "learning_rates": [0.1]},
    )
    assert len(result["linear"]["seeds"]) == 2
    with pytest.raises(ConfigError, match="seeds=0"):
        evaluate(SPEC, TinyBackbone(), "linear", seeds=0)
