"""Automatic choices that scale: what worked for short runs, the official values for long ones."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nexus.config import build, from_dotted
from nexus.training import TrainConfig
from nexus.training.auto import automatic
from nexus.training.choices import DataFacts
from nexus.training.recipes import read_recipe
from tests.training.test_auto import resolve


def reasons(facts: DataFacts, **given_: Any) -> dict[str, str]:
    dotted = {"compute.device": "cpu", **{key.replace("__", "."): value for key, value in given_.items()}}
    return {choice.key: choice.reason for choice in automatic(from_dotted(dotted), facts)[1]}


@pytest.mark.parametrize(("steps", "momentum"), [(600, 0.95), (3000, 0.98), (7500, 0.992), (125_000, 0.992)])
def test_the_teacher_follows_faster_in_shorter_runs(steps: int, momentum: float) -> None:
    config = resolve(DataFacts(50_000, 32), schedule__steps=steps, schedule__batch_size=64)
    assert config.teacher.momentum == momentum


def test_a_short_run_has_sharp_targets_from_the_start() -> None:
    config = resolve(DataFacts(1000, 400))
    assert config.teacher.temp_start == config.teacher.temp == 0.03
    assert config.teacher.temp_warmup_steps == 0
    assert config.optim.freeze_last_layer_steps == 0
    assert config.optim.optimizer == "muon"
    assert config.model.init_values == 1.0
    assert config.optim.layer_decay == config.optim.patch_embed_lr == 1.0


def test_a_run_of_the_official_length_has_the_official_values() -> None:
    """`auto` for ImageNet on a GPU with the official model, batch and steps is the official recipe."""
    given_ = {"schedule__steps": 125_000, "schedule__batch_size": 2048, "model__arch": "vit_large_patch16"}
    config = resolve(DataFacts(1_281_167, 400), compute__device="cuda", **given_)
    official = build(TrainConfig, read_recipe("vitl16-in1k"))
    assert config.teacher == official.teacher
    assert config.optim == official.optim
    assert config.objective == official.objective
    assert config.model == official.model
    assert config.crops.local_number == official.crops.local_number
    assert config.crops.global_scale == official.crops.global_scale
    assert config.crops.blur_local == official.crops.blur_local


def test_given_temperatures_are_kept_and_reached() -> None:
    config = resolve(DataFacts(1000, 400), teacher__temp=0.07, schedule__steps=1000)
    assert (config.teacher.temp_start, config.teacher.temp) == (0.03, 0.07)
    assert config.teacher.temp_warmup_steps == 300
    assert resolve(DataFacts(1000, 400), teacher__temp_start=0.05).teacher.temp == 0.05


def test_weights_that_are_trained_keep_the_official_rates() -> None:
    config = resolve(DataFacts(1000, 400), model__init="runs/a")
    assert config.optim.optimizer == "adamw"
    assert config.optim.layer_decay == TrainConfig().optim.layer_decay
    assert config.optim.patch_embed_lr == TrainConfig().optim.patch_embed_lr


@pytest.mark.parametrize(("shown", "images", "prototypes"), [(38_400, 1_800, 512), (448_000, 50_000, 1024)])
def test_prototypes_are_about_those_of_the_measured_recipes(shown: int, images: int, prototypes: int) -> None:
    """The demo's images and CIFAR-10's, with their recipes' lengths."""
    facts = DataFacts(images, 32)
    config = resolve(facts, schedule__steps=shown // 64, schedule__batch_size=64)
    assert config.objective.out_dim == prototypes


def test_small_images_get_larger_shares_and_less_blur() -> None:
    small, large = resolve(DataFacts(50_000, 32)), resolve(DataFacts(50_000, 400), compute__device="cuda")
    assert small.crops.global_scale == (0.4, 1.0)
    assert small.crops.local_scale == (0.1, 0.4)
    assert small.crops.blur_local == 0.1
    assert large.crops.local_scale == TrainConfig().crops.local_scale
    assert large.crops.blur_local == TrainConfig().crops.blur_local


def test_reasons_name_the_figures_they_follow_from() -> None:
    said = reasons(DataFacts(700, 400), schedule__steps=2000, schedule__batch_size=48)
    assert "96,000 images shown of 700" in said["objective.out_dim"]
    assert "33 steps of 2,000" in said["teacher.momentum"]
    assert "width 192" in said["objective.hidden_dim"]
    assert "steps of 48" in said["optim.lr"]


@settings(max_examples=60, deadline=None)
@given(
    images=st.integers(1, 50_000_000),
    side=st.integers(1, 4000),
    device=st.sampled_from(["cpu", "cuda"]),
    steps=st.integers(1, 10**6),
    arch=st.sampled_from(["vit_tiny_patch8", "vit_small_patch14", "vit_large_patch16", "vit_giant_patch14"]),
)
def test_whatever_the_scale_the_choices_stay_in_bounds(
    images: int, side: int, device: str, steps: int, arch: str
) -> None:
    facts = DataFacts(images, side)
    config = resolve(facts, compute__device=device, schedule__steps=steps, model__arch=arch)
    assert 512 <= config.objective.out_dim <= 65_536
    assert 256 <= config.objective.hidden_dim <= 2048
    assert 64 <= config.objective.bottleneck_dim <= 256
    assert 0.95 <= config.teacher.momentum <= 0.992
    assert config.teacher.temp_start <= config.teacher.temp <= 0.07
    assert config.model.drop_path_rate in (0.0, 0.3)
    assert config.optim.warmup_steps <= config.schedule.steps


def test_more_steps_never_make_a_faster_teacher_or_fewer_prototypes() -> None:
    found = [
        resolve(DataFacts(50_000, 64), schedule__steps=steps) for steps in (100, 1000, 5000, 20_000, 200_000)
    ]
    for name in ("momentum", "out_dim"):
        values = [getattr(c.teacher if name == "momentum" else c.objective, name) for c in found]
        assert values == sorted(values)
