"""What users leave out: chosen for data and machine, consistent with what they did give, and explained."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nexus.config import build, from_dotted
from nexus.models.vision import architecture
from nexus.training import TrainConfig
from nexus.training.auto import automatic
from nexus.training.choices import DataFacts, drop_auto, round_to

CPU = {"compute.device": "cpu"}


def resolve(facts: DataFacts, **given: Any) -> TrainConfig:
    dotted = {**CPU, **{key.replace("__", "."): value for key, value in given.items()}}
    tree, _ = automatic(from_dotted(dotted), facts)
    return build(TrainConfig, tree)


@settings(max_examples=60, deadline=None)
@given(
    images=st.integers(1, 50_000_000),
    side=st.integers(1, 8000),
    labelled=st.booleans(),
    device=st.sampled_from(["cpu", "cuda"]),
)
def test_any_data_give_a_consistent_run(images: int, side: int, labelled: bool, device: str) -> None:
    config = resolve(DataFacts(images, side, labelled), compute__device=device)
    patch = architecture(config.model.arch).patch_size
    assert config.crops.global_size % patch == 0
    assert config.crops.local_size % patch == 0
    assert patch <= config.crops.local_size <= config.crops.global_size
    assert config.crops.global_size <= (96 if device == "cpu" else 224)
    assert config.schedule.batch_size <= max(images, 2)
    assert config.optim.warmup_steps < config.schedule.steps
    assert config.optim.freeze_last_layer_steps < config.schedule.steps
    assert config.log.every >= 1
    assert bool(config.online_eval.every) is labelled


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.arch", "vit_small_patch16"),
        ("crops.global_size", 64),
        ("schedule.batch_size", 48),
        ("schedule.steps", 7),
        ("optim.warmup_steps", 0),
        ("compute.precision", "fp32"),
        ("data.workers", 3),
        ("online_eval.every", 0),
        ("objective.out_dim", 99),
    ],
)
def test_what_the_user_gave_stays(key: str, value: Any) -> None:
    tree, choices = automatic(from_dotted({**CPU, key: value}), DataFacts(1000, 64, True))
    section, name = key.split(".")
    assert tree[section][name] == value
    assert key not in {choice.key for choice in choices}


@pytest.mark.parametrize("arch", ["vit_tiny_patch14", "dinov2_vits14", "vit_small_patch16_reg4"])
def test_crops_follow_the_patch_of_a_given_architecture(arch: str) -> None:
    config = resolve(DataFacts(1000, 200), model__arch=arch)
    patch = architecture(arch).patch_size
    assert config.crops.global_size % patch == config.crops.local_size % patch == 0


def test_the_batch_splits_into_the_given_micro_batches() -> None:
    for parts in (1, 2, 3, 5, 7):
        batch = resolve(DataFacts(1000, 64), schedule__accumulation=parts).schedule.batch_size
        assert batch % parts == 0
        assert batch >= parts


def test_dependent_choices_follow_the_given_steps() -> None:
    config = resolve(DataFacts(1000, 64, True), schedule__steps=1000)
    found = (config.optim.warmup_steps, config.teacher.temp_warmup_steps, config.online_eval.every)
    assert found == (100, 0, 100)  # a short run: the temperature stays


def test_auto_means_left_out() -> None:
    assert drop_auto({"a": "auto", "b": {"c": "auto", "d": 1}, "e": None}) == {"b": {"d": 1}, "e": None}
    with_word, _ = automatic(from_dotted({**CPU, "schedule.steps": "auto"}), DataFacts(100, 32))
    without, _ = automatic(from_dotted(CPU), DataFacts(100, 32))
    assert with_word == without


def test_every_choice_says_why() -> None:
    _, choices = automatic({}, DataFacts(1000, 64, True))
    assert len(choices) > 10
    assert all(choice.reason for choice in choices)
    assert str(choices[0]).startswith("compute.device=")


def test_the_choices_are_the_same_every_time() -> None:
    facts = DataFacts(12345, 77, True)
    assert automatic({}, facts) == automatic({}, facts)


@pytest.mark.parametrize(
    ("value", "multiple", "expected"), [(96, 14, 98), (1, 14, 14), (100, 8, 96), (0.0, 4, 4)]
)
def test_rounding_to_patches(value: float, multiple: int, expected: int) -> None:
    assert round_to(value, multiple) == expected
