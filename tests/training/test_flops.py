"""The count of operations against PyTorch's own counter, over a whole training step."""

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.train import batch_of
from nexus.config import build, from_dotted
from nexus.training.config import Schedules, TrainConfig
from nexus.training.flops import step_flops
from nexus.training.state import build_state
from nexus.training.step import train_step
from nexus.training.throughput import matmul_rate

BASE = {
    "model.arch": "vit_tiny_patch8_reg2",
    "model.depth": 2,
    "objective.out_dim": 512,
    "objective.hidden_dim": 64,
    "objective.bottleneck_dim": 32,
    "objective.koleo_weight": 0.0,
    "crops.global_size": 48,
    "crops.local_size": 24,
    "crops.local_number": 3,
    "schedule.batch_size": 4,
    "compute.device": "cpu",
}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"model.drop_path_rate": 0.5},
        {"model.ffn_layer": "swiglu", "objective.separate_patch_head": True, "objective.patch_out_dim": 256},
        {"objective.ibot_weight": 0.0, "crops.local_number": 0},
    ],
)
def test_equals_what_pytorch_counts(changes: dict[str, Any]) -> None:
    """bf16, so that attention is written out; the centre's own product is what remains."""
    config = build(TrainConfig, from_dotted({**BASE, **changes}))
    state = build_state(config, torch.device("cpu"))
    batch = batch_of(config, 8, seed=0)
    with FlopCounterMode(display=False) as counter:
        train_step(
            state.model,
            [batch],
            state.optimizer,
            state.scaler,
            Schedules(config).at(0),
            precision="bf16",
            clip=3.0,
        )
    expected = step_flops(config, masked=len(batch.masks.index))
    assert counter.get_total_flops() == pytest.approx(expected, rel=2e-3)


def test_the_count_grows_with_micro_batches_and_has_an_expectation() -> None:
    config = build(TrainConfig, from_dotted(BASE))
    parts = build(TrainConfig, from_dotted({**BASE, "schedule.accumulation": 2, "schedule.batch_size": 8}))
    assert step_flops(parts) == pytest.approx(2 * step_flops(config))
    assert step_flops(config) == pytest.approx(step_flops(config, masked=8 * 36 * 0.15))


def test_matmul_rate_is_measured_once() -> None:
    rate = matmul_rate(torch.device("cpu"), torch.float32, torch.get_num_threads())
    assert 1e8 < rate < 1e14
    assert matmul_rate(torch.device("cpu"), torch.float32, torch.get_num_threads()) == rate
