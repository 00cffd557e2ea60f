"""A step never asks the device for a value: on a GPU the processor would wait for it, and the GPU afterwards.

A CPU has nothing to wait for, but the same questions pass through the dispatcher, and there they are refused.
"""

from itertools import islice
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from nexus.config import build, from_dotted, merge
from nexus.data.datasets import open_dataset
from nexus.training.config import Schedules, TrainConfig
from nexus.training.guards import Guards
from nexus.training.loop import batches
from nexus.training.metrics import RunningMeans
from nexus.training.recipes import read_recipe
from nexus.training.run import FaultList
from nexus.training.state import TrainState, build_state
from nexus.training.step import train_step
from tests.training import runs

CPU = torch.device("cpu")
WAITING = {"_local_scalar_dense", "is_nonzero", "item", "nonzero", "masked_select", "unique_dim", "_unique2"}
"""Operations whose result, or its shape, the processor needs at once: `.item()`, `bool()`, `x[mask]`."""


class NoWaiting(TorchDispatchMode):
    """Within the block no operation may give a value of a tensor to Python."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        chosen = args[1] if name in ("index", "index_put_", "_index_put_impl_") else ()
        if name in WAITING or any(t is not None and t.dtype is torch.bool for t in chosen):
            raise AssertionError(f"the processor waits for {name}")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("ask", [bool, float, Tensor.item, Tensor.nonzero, lambda x: x[x > 0]])
def test_the_guard_of_these_tests_refuses(ask: Any) -> None:
    with NoWaiting(), pytest.raises(AssertionError, match="waits"):
        ask(torch.ones(1))


def training(**settings: Any) -> tuple[TrainConfig, TrainState, list]:
    """A state and the micro-batches of a few steps."""
    values = from_dotted({**runs.SETTINGS, "model.drop_path_rate": 0.4, **runs.dotted(settings)})
    config = build(TrainConfig, merge(read_recipe("smoke"), values))
    count = config.schedule.accumulation
    stream = batches(config, open_dataset(runs.DATA), 0, CPU)
    steps = [list(islice(stream, count)) for _ in range(3)]
    stream.close()
    return config, build_state(config, CPU), steps


def step(config: TrainConfig, state: TrainState, micro_batches: list, number: int) -> dict[str, Tensor]:
    return train_step(
        state.model,
        micro_batches,
        state.optimizer,
        state.scaler,
        Schedules(config).at(number),
        precision=config.compute.precision,
        clip=config.optim.clip_grad,
    )


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, id="defaults"),
        pytest.param({"compute__precision": "fp16", "schedule__accumulation": 2}, id="fp16, accumulation"),
        pytest.param(
            {"compute__precision": "bf16", "objective__separate_patch_head": True}, id="bf16, patch head"
        ),
        pytest.param({"objective__centering": "sinkhorn_knopp", "optim__clip_grad": 0}, id="sinkhorn"),
        pytest.param({"compute__checkpointing": "full"}, id="checkpointing"),
    ],
)
def test_a_step_waits_for_nothing(settings: dict[str, Any]) -> None:
    config, state, steps = training(**settings)
    means = RunningMeans()
    with NoWaiting():
        for number, micro_batches in enumerate(steps):
            means.add(step(config, state, micro_batches, number))
    assert means.read()["loss"] > 0


def test_a_step_that_is_not_finite_changes_nothing_and_waits_for_nothing(
    tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    config, state, (first, second, third) = training()
    step(config, state, first, 0)
    before = {name: value.clone() for name, value in state.tensors.items()}
    with torch.no_grad():
        second[0].global_crops[0, 0, 0, 0] = torch.nan
    with NoWaiting():
        metrics = step(config, state, second, 1)
    assert float(metrics["finite"]) == 0.0
    assert {name for name, value in state.tensors.items() if not torch.equal(value, before[name])} == set()
    Guards(config, FaultList(tmp_path / "faults.csv"), CPU).check(2, metrics, ())
    assert "step 2 skipped: loss/dino_global, " in caplog.text
    assert float(step(config, state, third, 2)["finite"]) == 1.0
    moved = {name for name, value in state.tensors.items() if not torch.equal(value, before[name])}
    assert {"model.teacher_head.mlp.0.weight", "model.student_head.mlp.0.weight"} <= moved


def test_other_optimizers_wait_and_decide_alike() -> None:
    """AdamW that is not fused, for devices without that kernel."""
    config, state, (first, second, _) = training()
    fused = {group["fused"] for group in state.optimizer.param_groups}
    assert fused == {True}
    state.optimizer.defaults["fused"] = False
    step(config, state, first, 0)
    before = {name: value.clone() for name, value in state.tensors.items()}
    second[0].global_crops[0, 0, 0, 0] = torch.nan
    step(config, state, second, 1)
    assert all(torch.equal(value, before[name]) for name, value in state.tensors.items())


def test_on_a_gpu_the_guards_look_one_step_later(tmp_path: Any) -> None:
    """With the deque filled by hand: the device is not there, the order is."""
    config = build(TrainConfig, read_recipe("smoke"))
    guards = Guards(config, FaultList(tmp_path / "faults.csv"), CPU)
    guards._lag = 1
    bad = {"loss": torch.tensor(torch.nan), "finite": torch.tensor(0.0)}
    good = {"loss": torch.tensor(1.0), "finite": torch.tensor(1.0)}
    seen = []
    for number, metrics in enumerate((bad, bad, good), start=1):
        guards.check(number, metrics, ())
        seen.append(guards.bad_steps)
    assert seen == [0, 1, 2]
    guards.finish()
    assert guards.bad_steps == 0
