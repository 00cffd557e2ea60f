"""Two gloo processes train as one process does with the whole batch: the same weights, to rounding.

In float64, where AdamW does not blow rounding of gradients that are zero up to steps of full size.
"""

import math
from itertools import islice
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from nexus import distributed
from nexus.config import build, from_dotted, merge
from nexus.data.batch import Batch
from nexus.data.datasets import open_dataset
from nexus.models.ssl import passes
from nexus.training.config import Schedules, TrainConfig
from nexus.training.loop import batches
from nexus.training.recipes import read_recipe
from nexus.training.state import build_state
from nexus.training.step import train_step
from tests.distributed.launch import run_processes
from tests.training import runs

STEPS = 20
CASES: dict[str, dict[str, Any]] = {
    "centering": {},
    "sinkhorn": {"objective__centering": "sinkhorn_knopp"},
    "accumulation": {"schedule__accumulation": 2},
    "patch head, uneven masks": {"objective__separate_patch_head": True, "masks__probability": 0.3},
    "muon": {"optim__optimizer": "muon"},
    "fsdp": {"compute__parallel": "fsdp"},
    "fsdp, muon": {"compute__parallel": "fsdp", "optim__optimizer": "muon"},
    "fsdp, sinkhorn, accumulation": {
        "compute__parallel": "fsdp",
        "objective__centering": "sinkhorn_knopp",
        "schedule__accumulation": 2,
    },
}

TOGETHER = {"accumulation", "fsdp", "fsdp, muon", "fsdp, sinkhorn, accumulation"}
"""Cases in which two processes put all crops of the student through its backbone in one pass, as on GPUs."""


def orthogonalized(
    matrix: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float
) -> Tensor:
    """Muon's iteration, in the precision of the matrix: torch's rounds to bf16, whole and cut differently."""
    a, b, c = coefficients
    found = matrix / matrix.norm().clamp(min=eps)
    for _ in range(steps):
        gram = found @ found.T
        found = a * found + (b * gram + c * gram @ gram) @ found
    return found


@pytest.fixture(autouse=True)
def exact_muon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.optim._muon, "_zeropower_via_newtonschulz", orthogonalized)


Result = tuple[dict[str, Tensor], dict[str, float]]


def trained(settings: dict[str, Any]) -> Result:
    """Whole weights and the last metrics after some steps in float64, in however many processes there are."""
    base = {"schedule__steps": STEPS, "schedule__batch_size": 8, **settings}
    values = from_dotted({**runs.SETTINGS, **runs.dotted(base)})
    config = build(TrainConfig, merge(read_recipe("smoke"), values))
    device = torch.device("cpu")
    torch.set_default_dtype(torch.float64)
    try:
        state = build_state(config, device)
        dataset, schedules = open_dataset(runs.DATA), Schedules(config)
        stream = (doubled(batch) for batch in batches(config, dataset, 0, device))
        for step in range(STEPS):
            metrics = train_step(
                state.model,
                list(islice(stream, config.schedule.accumulation)),
                state.optimizer,
                state.scaler,
                schedules.at(step),
                precision="fp32",
                clip=config.optim.clip_grad,
                forward=state.forward,
            )
    finally:
        torch.set_default_dtype(torch.float32)
    weights = {name: whole(value).detach().clone() for name, value in state.model.state_dict().items()}
    known = {name: float(value) for name, value in metrics.items()}
    assert math.isnan(known.pop("not_finite_in", math.nan)), "every process was well"
    return weights, known


def doubled(batch: Batch) -> Batch:
    masks = batch.masks
    object.__setattr__(
        masks, "weight", 1 / masks.grid.sum(dim=1).double()[masks.index // masks.grid.shape[1]]
    )
    for name in ("global_crops", "local_crops"):
        object.__setattr__(batch, name, getattr(batch, name).double())
    return batch


def whole(value: Tensor) -> Tensor:
    return value.full_tensor() if isinstance(value, DTensor) else value


def every_case() -> dict[str, Result]:
    torch.optim._muon._zeropower_via_newtonschulz = orthogonalized
    assert distributed.world_size() == 2
    return {name: trained_by_two(name) for name in CASES}


def trained_by_two(name: str) -> Result:
    passes.APART = set() if name in TOGETHER else {"cpu"}
    return trained(CASES[name])


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Result]]:
    return run_processes(every_case, 2, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("case", CASES)
def test_weights_and_metrics(ranks: list[dict[str, Result]], case: str) -> None:
    weights, metrics = trained(CASES[case])
    for rank in ranks:
        assert rank[case][0].keys() == weights.keys()
        for name, value in weights.items():
            torch.testing.assert_close(rank[case][0][name], value, rtol=1e-6, atol=1e-9, msg=name)
        assert rank[case][1] == pytest.approx(metrics, rel=2e-6)


def test_training_moved(ranks: list[dict[str, Result]]) -> None:
    """What is compared above is not the start."""
    weights, _ = trained({**CASES["centering"], "optim__lr": 0.0})
    name = "student_backbone.blocks.0.mlp.fc1.weight"
    assert (weights[name] - ranks[0]["centering"][0][name]).abs().max() > 1e-3
