"""What a step needs at least, and what is refused for it."""

import pytest
import torch

from nexus.config import build
from nexus.errors import ConfigError
from nexus.training import TrainConfig, footprint
from nexus.training.footprint import least_memory, refuse_what_cannot_fit
from nexus.training.recipes import read_recipe
from nexus.training.state import build_state

GIB = 1 << 30
CPU = torch.device("cpu")


def config_of(**changes: object) -> TrainConfig:
    return build(TrainConfig, {**read_recipe("smoke"), **changes})


def test_least_memory_counts_what_is_really_there() -> None:
    config = config_of(schedule={"steps": 1, "batch_size": 8, "accumulation": 2})
    state = build_state(config, CPU)
    student = sum(p.numel() for net in state.model.trained_networks().values() for p in net.parameters())
    moments = sum(
        value.numel() for values in state.optimizer.state.values() for value in values.values() if value.ndim
    )
    teacher = sum(p.numel() for p in state.model.parameters() if not p.requires_grad)
    tokens = 4 * (
        2 * (1 + 16) + 2 * (1 + 4)
    )  # 4 images, 2 global crops of 32 px, 2 local ones of 16, patch 8
    assert least_memory(config) == {
        "weights": 4 * (2 * student + moments + teacher),
        "crops": 4 * 4 * 3 * (2 * 32**2 + 2 * 16**2),
        "activations": 4 * tokens * 64 * 2,
    }


def test_least_memory_is_not_more_than_muon_has() -> None:
    """It has one moment of its matrices and two of everything else."""
    config = config_of(optim={"optimizer": "muon"})
    state = build_state(config, CPU)
    kept = sum(value.numel() for values in state.optimizer.state.values() for value in values.values())
    held = 4 * (sum(p.numel() for net in state.model.trained_networks().values() for p in net.parameters()))
    weights = 4 * (sum(p.numel() for p in state.model.parameters()) + kept) + held
    assert 0.7 * weights < least_memory(config)["weights"] <= weights


@pytest.mark.parametrize(("how", "slices"), [("ddp", 1), ("fsdp", 2)])
def test_replicas_do_not_shrink_but_slices_do(monkeypatch: pytest.MonkeyPatch, how: str, slices: int) -> None:
    """Four processes on two machines: a quarter of the images each, weights whole or cut within a machine."""
    config = config_of(compute={"parallel": how})
    alone = least_memory(config)
    monkeypatch.setattr(footprint, "world_size", lambda: 4)
    monkeypatch.setattr(footprint, "local_world_size", lambda: 2)
    each = least_memory(config)
    assert each["weights"] == alone["weights"] // slices
    for name in ("crops", "activations"):
        assert each[name] == alone[name] // 4


def test_crops_of_20000_pixels_are_refused_before_anything_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(footprint, "available_memory", lambda device: 24 * GIB)
    huge = config_of(crops={"global_size": 20_000, "local_size": 16, "local_number": 2})
    with pytest.raises(ConfigError) as refused:
        refuse_what_cannot_fit(huge, CPU)
    message = str(refused.value)
    for part in ("at the very least", "cpu has 24 GiB", "lower schedule.batch_size=8", "global_size=20000"):
        assert part in message


def test_a_model_that_is_too_large_is_what_the_message_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(footprint, "available_memory", lambda device: 8 * GIB)
    giant = config_of(model={"arch": "vit_giant_patch16"})
    with pytest.raises(ConfigError, match="take a smaller model than vit_giant_patch16"):
        refuse_what_cannot_fit(giant, CPU)


def test_what_fits_or_cannot_be_known_is_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of()
    refuse_what_cannot_fit(config, CPU)
    for memory in (sum(least_memory(config).values()), None):
        monkeypatch.setattr(footprint, "available_memory", lambda device, memory=memory: memory)
        refuse_what_cannot_fit(config, CPU)
    monkeypatch.setattr(footprint, "available_memory", lambda device: sum(least_memory(config).values()) - 1)
    with pytest.raises(ConfigError):
        refuse_what_cannot_fit(config, CPU)
