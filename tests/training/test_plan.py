"""What `nexus plan` promises: measured on the run's own settings, consistent, and nothing written."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from nexus.cli import run as command_line
from nexus.config import build
from nexus.data.datasets import open_dataset
from nexus.data.resident import ResidentImages
from nexus.errors import ConfigError, DataError
from nexus.training import TrainConfig, rehearsal
from nexus.training.advice import advice, changes, fitting_recipe, smaller_architecture
from nexus.training.choices import DataFacts
from nexus.training.footprint import likely_memory
from nexus.training.planning import Plan, budget_seconds, plan
from nexus.training.recipes import read_recipe, recipe_names
from nexus.training.rehearsal import Rehearsal, line, rehearse
from tests.training.runs import DATA, SETTINGS

GIB = 1 << 30


def measured(**changes: Any) -> Rehearsal:
    usual = {
        "step": 0.5,
        "waiting": 0.2,
        "start": 2.0,
        "memory": GIB,
        "batch": 8,
        "steps": 5,
        "cores": 1.0,
        "scaled": False,
    }
    return Rehearsal(**{**usual, **changes})


TINY = SETTINGS | {"schedule.batch_size": 2}
"""Two images a step: what is tried first, so that nothing here depends on the speed of the machine."""


@pytest.fixture(scope="module")
def small() -> Plan:
    return plan(DATA, recipe="smoke", overrides=TINY, budgets=["1s", "10min"], seconds=0.1)


def test_a_plan_measures_the_runs_own_steps(small: Plan) -> None:
    found = small.rehearsal
    assert found is not None
    assert found.batch == small.config.schedule.batch_size == 2
    assert not found.scaled
    assert found.steps >= 1
    assert 0 < found.step < found.start
    assert 0 <= found.waiting <= 1
    assert found.memory > 50 << 20  # of this process, with torch in it
    assert small.fits


def test_budgets_are_what_the_measured_step_gives(small: Plan) -> None:
    found, longer = small.rehearsal, small.budgets[1]
    assert found is not None
    assert found.start + longer.steps * found.step <= 600 < found.start + (longer.steps + 1) * found.step
    assert longer.images == 2 * longer.steps
    assert longer.passes == longer.images / 22
    assert longer.command.endswith(f"schedule.steps={longer.steps}")
    assert longer.command.count("schedule.steps=") == 1


def test_the_command_is_what_was_asked_for(small: Plan) -> None:
    words = small.command.split()
    assert words[:4] == ["nexus", "train", "--data", DATA]
    assert words[words.index("--recipe") + 1] == "smoke"
    assert set(words[words.index("--out") + 2 :]) == {f"{key}={value}" for key, value in TINY.items()}


def test_choices_and_settings_are_those_of_a_run(small: Plan) -> None:
    assert small.config.model.depth == 1
    assert "data.engine" in {choice.key for choice in small.choices}
    assert all(choice.reason for choice in small.choices)


def test_nothing_is_written_but_the_file_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["plan", "--data", DATA, "--recipe", "smoke", "--seconds", "0.05", "--budgets", "2min"]
    words += [f"{key}={value}" for key, value in TINY.items()]
    assert command_line(words) == 0
    assert os.listdir(tmp_path) == []
    assert command_line([*words, "--out", "deep/plan.json"]) == 0
    out = capsys.readouterr().out
    for part in ("a step takes", "what time gives", "2min", "nexus train --data synthetic"):
        assert part in out
    told = json.loads(Path("deep/plan.json").read_text())
    assert told["measured"]["step"] > 0
    assert told["config"]["schedule"]["batch_size"] == 2
    assert told["budgets"][0]["seconds"] == 120
    assert command_line([*words, "--out", "deep/plan.json"]) == 2, "an existing file is not replaced unasked"


def test_a_batch_too_long_to_try_is_scaled_up_from_smaller_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that takes 1 s and 10 ms an image: 1,000 images are 11 s, though only a few were tried."""
    tried = []

    def fake(config: Any, source: Any, images: int, seconds: float) -> rehearsal._Try:
        tried.append(images)
        return rehearsal._Try(images, 1 + images / 100, 0.1, 2.0, 2, 1.0, GIB, GIB + (images << 20))

    monkeypatch.setattr(rehearsal, "_try", fake)
    schedule = {"steps": 10, "batch_size": 2000, "accumulation": 2}
    config = build(TrainConfig, {**read_recipe("smoke"), "schedule": schedule, "compute": {"device": "cpu"}})
    found = rehearse(config, open_dataset(DATA), seconds=12)
    assert found is not None
    assert tried == sorted(set(tried))
    assert tried[-1] < 1000
    assert found.scaled
    assert found.step == pytest.approx(2 * 11)
    assert found.memory > GIB + (900 << 20)


def test_images_in_memory_are_read_once_for_all_tries(monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    """And the time of it is part of the time to the end of the first step."""
    reads = []

    def slow(dataset: Any, device: Any) -> ResidentImages:
        reads.append(len(dataset))
        time.sleep(0.3)
        return read(dataset, device)

    read = ResidentImages.read
    monkeypatch.setattr(rehearsal.ResidentImages, "read", slow)
    changes = TINY | {"schedule.batch_size": 8, "data.engine": "resident"}
    with caplog.at_level("INFO"):
        found = plan("synthetic:n=22,size=40", recipe="smoke", overrides=changes, seconds=0.1).rehearsal
    assert reads == [22]
    assert found is not None
    assert found.start > 0.3
    assert "22 images read into memory" in caplog.text
    assert "a step of 2 images at once" in caplog.text


@pytest.mark.parametrize(
    ("points", "at", "value"),
    [
        ([(4, 1.0)], 40, 10.0),
        ([(4, 1.4), (8, 1.8)], 18, 2.8),
        ([(4, 1.0), (8, 0.9)], 16, 0.9 + 8 * 0.9 / 80),  # noise: a tenth of the proportion
        ([(4, 1.0), (8, 5.0)], 16, 10.0),  # noise: never more than in proportion
    ],
)
def test_a_line_through_what_was_tried(points: list[tuple[int, float]], at: int, value: float) -> None:
    assert line(points, at) == pytest.approx(value)


def test_what_does_not_fit_is_not_tried_and_changes_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("planning", "rehearsal"):
        monkeypatch.setattr(f"nexus.training.{module}.available_memory", lambda device: 64 << 20)
    given = {"compute.device": "cpu", "schedule.batch_size": 4096, "schedule.steps": 10}
    found = plan(DATA, model="vit_base_patch8", overrides=given | {"objective.koleo_weight": 0})
    assert found.rehearsal is None
    assert not found.fits
    assert found.budgets == []
    assert any("does not fit" in sentence for sentence in found.advice)
    assert {change.overrides for change in found.changes} >= {
        "schedule.accumulation=2",
        "compute.checkpointing=full",
        "schedule.batch_size=2048",
        "crops.local_number=2",
        "model.arch=vit_small_patch8",
    }


def test_a_change_is_as_fast_as_its_operations_say() -> None:
    config = build(TrainConfig, {**read_recipe("smoke"), "crops": {"local_number": 8, "local_size": 16}})
    for change in changes(config, measured(waiting=0.0), 2 * GIB):
        rate, before = change.images_per_second, config.schedule.batch_size / 0.5
        assert rate is not None
        if change.overrides.startswith("schedule"):
            assert rate == pytest.approx(before)
        elif "full" in change.overrides:
            assert rate == pytest.approx(0.75 * before)
        else:
            assert rate > before
        assert change.fits


def test_one_of_several_processes_is_a_run_of_its_part() -> None:
    schedule, compute = {"steps": 5, "batch_size": 24, "accumulation": 3}, {"device": "cpu", "devices": 4}
    whole = build(TrainConfig, {**read_recipe("smoke"), "schedule": schedule, "compute": compute})
    part = rehearsal.of_one_process(whole)
    assert (part.schedule.batch_size, part.schedule.accumulation, part.compute.devices) == (6, 3, 1)
    assert part.model == whole.model
    assert rehearsal.of_one_process(part) is part


def test_memory_goes_down_in_the_order_of_checkpointing() -> None:
    needs = [
        likely_memory(build(TrainConfig, {"compute": {"checkpointing": kind}}))["activations"]
        for kind in ("none", "selective", "full")
    ]
    assert needs[0] > needs[1] > needs[2]


def test_the_estimate_counts_what_a_block_keeps() -> None:
    """Bytes that autograd saves within the blocks in fp32, beside the estimate: within a third of it."""
    shape = {"arch": "vit_tiny_patch8", "depth": 4, "embed_dim": 64, "num_heads": 2}
    crops = {"global_size": 64, "local_number": 0}
    compute = {"device": "cpu", "precision": "fp32"}
    config = build(
        TrainConfig,
        {
            "model": {**shape, "init_values": 0.0},
            "crops": crops,
            "compute": compute,
            "schedule": {"batch_size": 8},
        },
    )
    from nexus.models.vision import build_backbone
    from nexus.training.state import vit_config

    backbone = build_backbone(vit_config(config.model, 64)).train()
    kept: dict[int, int] = {}

    def keep(value: torch.Tensor) -> torch.Tensor:
        if not isinstance(value, torch.nn.Parameter):
            storage = value.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        out = backbone.forward_features(torch.randn(16, 3, 64, 64))
    assert out["x_norm_clstoken"].requires_grad
    assert sum(kept.values()) == pytest.approx(likely_memory(config)["activations"], rel=0.34)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("15min", 900), ("15m", 900), ("1.5h", 5400), ("2 d", 172_800)]
)
def test_lengths_of_time(text: str, seconds: float) -> None:
    assert budget_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "0h", "an hour", "5", "-1h", "1y"])
def test_what_is_no_length_of_time(text: str) -> None:
    with pytest.raises(ConfigError, match="no length of time"):
        budget_seconds(text)


def test_errors_are_those_of_train(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"schedule\.step"):
        plan(DATA, overrides={"schedule.step": 4})
    with pytest.raises(DataError):
        plan(tmp_path)


def test_advice_for_short_small_and_busy() -> None:
    config = build(TrainConfig, {**read_recipe("smoke"), "compute": {"device": "cpu"}})
    said = " ".join(advice(config, 500, measured(waiting=0.6, cores=0.1), 8 * GIB))
    for part in ("nothing moved before 10,000", "less than one pass", "few to learn from", "60%", "busy"):
        assert part in said
    long = build(TrainConfig, {"schedule": {"steps": 5000, "batch_size": 64}, "compute": {"device": "cpu"}})
    assert advice(long, 50_000, measured(cores=64.0), 8 * GIB) == []


def test_recipes_that_are_suggested_exist() -> None:
    def suggested(device: str, images: int, side: int, **facts: Any) -> str | None:
        config = build(TrainConfig, {"compute": {"device": device}})
        return fitting_recipe(DataFacts(images, side, **facts), config)

    found = {
        suggested("cpu", 50_000, 32, one_size=True),
        suggested("cpu", 700, 400),
        suggested("cpu", 9000, 400),
        suggested("cuda", 1_300_000, 400),
        suggested("cuda", 50_000, 32, one_size=True),
    }
    assert found <= set(recipe_names())
    assert len(found) == 5
    assert suggested("cpu", 200_000, 400) is None


def test_smaller_architectures() -> None:
    assert smaller_architecture("vit_giant_patch14_reg4") == "vit_large_patch14_reg4"
    assert smaller_architecture("vit_tiny_patch8") is None
