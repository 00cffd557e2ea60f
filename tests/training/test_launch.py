"""From what a user gives to the run that starts: layers of settings, resuming, and what is said."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from nexus.config import build
from nexus.errors import ConfigError, NexusError, RunError
from nexus.log import logger
from nexus.training import TrainConfig, launch, train
from nexus.training.loop import RunResult
from nexus.training.recipes import read_recipe, recipe_names
from nexus.training.run import RunFolder
from nexus.training.state import build_state
from nexus.training.summary import lr_sentence, parameter_counts, summary

DATA = "synthetic:n=16,size=32,classes=2"


class Started(list):
    """The (config, images, folder) of every run that would have started."""


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Started:
    """`train` up to the moment when the loop would begin."""
    runs = Started()

    def stop_here(config: TrainConfig, dataset: Any, folder: RunFolder) -> RunResult:
        runs.append((config, len(dataset), folder.path))
        return RunResult(folder, 0, False, {})

    monkeypatch.setattr(launch, "run", stop_here)
    return runs


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(logger, "propagate", True)
    caplog.set_level("INFO", logger="nexus")
    return caplog


def test_later_layers_win(started: Started, tmp_path: Path) -> None:
    """defaults, automatic choices, recipe, configuration, arguments, overrides: in this order."""
    settings = tmp_path / "mine.yaml"
    settings.write_text("optim: {lr: 1e-3, min_lr: 1e-5}\nschedule: {steps: 30}\n")
    overrides = {"optim.min_lr": 1e-7, "model.arch": "vit_tiny_patch4"}
    train(DATA, tmp_path / "a", recipe="smoke", config=settings, overrides=overrides)
    config, images, folder = started[0]
    assert (config.optim.lr, config.optim.min_lr) == (1e-3, 1e-7)
    assert (config.schedule.steps, config.schedule.batch_size) == (30, 8)
    assert config.optim.warmup_steps == 3  # chosen for the 30 steps
    assert config.data.source == DATA
    assert (images, folder) == (16, tmp_path / "a")


def test_overrides_are_a_mapping_or_strings(started: Started, tmp_path: Path) -> None:
    train(DATA, tmp_path / "a", recipe="smoke", overrides={"optim.lr": 1e-3, "data.split": None})
    train(DATA, tmp_path / "b", recipe="smoke", overrides=["optim.lr=1e-3"])
    assert started[0][0] == started[1][0]


def test_a_recipe_builds_on_another_one_beside_it(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "base.yaml").write_text("extends: smoke\noptim.lr: 7e-3\n")
    (tmp_path / "deep" / "own.yaml").write_text("extends: ../base.yaml\nmodel.depth: 3\n")
    settings = read_recipe(tmp_path / "deep" / "own.yaml")
    assert (settings["optim"]["lr"], settings["model"]["depth"]) == (7e-3, 3)
    assert settings["model"]["arch"] == read_recipe("smoke")["model"]["arch"]
    assert "extends" not in settings


def test_a_recipes_sizes_go_with_its_architecture(started: Started, tmp_path: Path) -> None:
    train(DATA, tmp_path / "a", recipe="smoke")
    train(DATA, tmp_path / "b", recipe="smoke", model="vit_tiny_patch8")
    train(DATA, tmp_path / "c", recipe="smoke", model="vit_tiny_patch16")
    train(DATA, tmp_path / "d", recipe="smoke", model="vit_tiny_patch16", overrides={"model.depth": 3})
    assert [run[0].model.depth for run in started] == [2, 2, None, 3]
    assert [run[0].model.embed_dim for run in started] == [64, 64, None, None]


def test_the_configuration_of_a_run_repeats_it(started: Started, tmp_path: Path) -> None:
    train(DATA, tmp_path / "a", recipe="smoke")
    first = started[0][0]
    (tmp_path / "a" / "config.yaml").write_text(yaml.safe_dump(first.model_dump(mode="json")))
    train(None, tmp_path / "b", config=tmp_path / "a")
    train(None, tmp_path / "c", config=str(tmp_path / "a" / "config.yaml"))
    assert started[1][0] == started[2][0] == first


def test_resuming_takes_the_settings_of_the_run(started: Started, tmp_path: Path) -> None:
    train(DATA, tmp_path / "a", recipe="smoke")
    first = started[0][0]
    (tmp_path / "a" / "config.yaml").write_text(yaml.safe_dump(first.model_dump(mode="json")))
    train(resume=tmp_path / "a", out=tmp_path / "a", overrides=["schedule.steps=40"])
    assert started[1][0] == first.model_copy(
        update={"schedule": first.schedule.model_copy(update={"steps": 40})}
    )


@pytest.mark.parametrize(
    ("extra", "named"),
    [
        ({"recipe": "smoke"}, "--recipe"),
        ({"config": "x.yaml"}, "--config"),
        ({"init": "x.pth"}, "--init"),
        ({"overwrite": True}, "--overwrite"),
    ],
)
def test_nothing_beside_resume_is_ignored_in_silence(extra: dict, named: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=named):
        train(resume=tmp_path, **extra)


def test_unlabelled_images_are_not_evaluated_even_if_the_recipe_says_so(
    started: Started, tmp_path: Path, said: pytest.LogCaptureFixture
) -> None:
    for index in range(9):
        pixels = np.full((32, 32, 3), index * 20, dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    train(tmp_path, tmp_path.parent / "a", recipe="smoke", overrides={"online_eval.every": 5})
    assert started[0][0].online_eval.every == 0
    assert "no k-NN while training: " in said.text


def test_one_image_a_class_cannot_be_evaluated_and_nothing_says_otherwise(
    started: Started, tmp_path: Path, said: pytest.LogCaptureFixture
) -> None:
    for index in range(9):
        (tmp_path / "data" / str(index)).mkdir(parents=True)
        pixels = np.full((32, 32, 3), index * 20, dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "data" / str(index) / "a.png")
    train(tmp_path / "data", tmp_path / "a", model="vit_tiny_patch16", overrides={"schedule.batch_size": 4})
    assert started[0][0].online_eval.every == 0
    assert "no k-NN while training: no class has two labelled images" in said.text
    assert "there are labels" not in said.text


def test_labelled_data_of_their_own_evaluate_unlabelled_ones(
    started: Started, tmp_path: Path, said: pytest.LogCaptureFixture
) -> None:
    for index in range(9):
        pixels = np.full((32, 32, 3), index * 20, dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    settings = {"schedule.batch_size": 4, "schedule.steps": 50, "online_eval.data": DATA}
    train(tmp_path, tmp_path.parent / "own", model="vit_tiny_patch16", overrides=settings)
    assert started[0][0].online_eval.every == 5


def test_splits_train_on_train(started: Started, tmp_path: Path, said: pytest.LogCaptureFixture) -> None:
    for index in range(16):
        folder = tmp_path / "data" / ("train" if index < 12 else "val") / "ab"[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((32, 32, 3), index * 9, dtype=np.uint8)).save(folder / f"{index}.png")
    train(tmp_path / "data", tmp_path / "a", recipe="smoke")
    train(
        tmp_path / "data",
        tmp_path / "b",
        recipe="smoke",
        overrides={"data.split": "val", "schedule.batch_size": 4},
    )
    assert [run[1] for run in started] == [12, 4]
    assert "training on 'train'" in said.text


@pytest.mark.parametrize(
    "settings",
    [
        {"overrides": {"optim.lrr": 1}},
        {"overrides": {"crops.local_size": 17}},
        {"overrides": {"schedule.batch_size": 17}},
        {"overrides": {"online_eval.data": "nowhere"}},
        {"model": "vit_tiny_patch8x"},
        {"init": "nowhere.pth"},
        {"recipe": "nothing"},
        {"data": "nowhere"},
    ],
)
def test_a_refused_run_leaves_no_folder(settings: dict, started: Started, tmp_path: Path) -> None:
    with pytest.raises(NexusError):
        train(out=tmp_path / "a" / "b", **{"data": DATA, "recipe": "smoke", **settings})
    assert list(tmp_path.iterdir()) == []
    assert not started


def test_an_earlier_run_is_not_overwritten(started: Started, tmp_path: Path) -> None:
    train(DATA, tmp_path, recipe="smoke")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(started[0][0].model_dump(mode="json")))
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    with pytest.raises(RunError, match="--overwrite"):
        train(DATA, tmp_path, recipe="smoke")
    train(DATA, tmp_path, recipe="smoke", overwrite=True)
    assert not (tmp_path / "metrics.jsonl").exists()


# -- what is said ---------------------------------------------------------------------------------


def test_the_summary_of_a_run() -> None:
    config = build(TrainConfig, {**read_recipe("smoke"), "compute": {"device": "cpu", "precision": "fp32"}})
    assert summary(config, 32, "runs/a") == [
        "run   runs/a",
        "on    cpu, fp32",
        "model vit_tiny_patch8 from random weights: 0.1 M parameters, 0.1 M with the heads",
        "step  8 images; 2 global crops of 32 px and 2 local crops of 16 px each",
        "steps 20, 5.0 passes over 32 images",
        "lr    0.004 × sqrt(8/1024) = 0.00035 after 12,500 steps of warm-up, then a cosine to 1e-06",
    ]


@pytest.mark.parametrize(
    ("rule", "batch", "sentence"),
    [
        ("sqrt_1024", 32, "0.004 × sqrt(32/1024) = 0.00071"),
        ("linear_256", 64, "0.004 × 64/256 = 0.001"),
        ("none", 64, "0.004, whatever the batch"),
    ],
)
def test_the_learning_rate_shows_rule_and_outcome(rule: str, batch: int, sentence: str) -> None:
    optim = TrainConfig().optim.model_copy(update={"lr_scaling": rule})
    assert lr_sentence(optim, batch) == sentence


@pytest.mark.parametrize("recipe", recipe_names())
def test_parameters_are_counted_without_allocating(recipe: str) -> None:
    config = build(TrainConfig, read_recipe(recipe))
    backbone, student = parameter_counts(config)
    assert 0 < backbone < student


def test_parameter_counts_are_those_of_the_model() -> None:
    config = build(
        TrainConfig, {**read_recipe("smoke"), "objective": {"out_dim": 64, "separate_patch_head": True}}
    )
    model = build_state(config, torch.device("cpu")).model
    trained = sum(p.numel() for network in model.trained_networks().values() for p in network.parameters())
    backbone = sum(p.numel() for p in model.student_backbone.parameters())
    assert parameter_counts(config) == (backbone, trained)
