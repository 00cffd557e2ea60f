"""Centering on two gloo processes equals centering on one process that holds all rows."""

import pytest
import torch
from torch import Tensor

from nexus import distributed
from nexus.losses import SoftmaxCentering, sinkhorn_knopp
from tests.distributed.launch import run_processes

PROTOTYPES = 11
TEMPERATURE = 0.06
SPLITS = {"equal": (4, 4), "unequal": (6, 2), "one empty": (0, 8), "both empty": (0, 0)}


def rows_of(split: str, step: int = 0) -> tuple[Tensor, ...]:
    """The same random rows everywhere, one tensor for each rank; rank 1 has much larger logits."""
    counts = SPLITS[split]
    generator = torch.Generator().manual_seed(step)
    rows = torch.randn(sum(counts), PROTOTYPES, generator=generator)
    rows[counts[0] :] *= 5.0
    return rows.split(counts)


def every_result() -> dict[str, tuple[Tensor, Tensor]]:
    """For each split: this rank's Sinkhorn targets, and the centre after three steps."""
    results = {}
    for split in SPLITS:
        centering = SoftmaxCentering(PROTOTYPES)
        for step in range(3):
            mine = rows_of(split, step)[distributed.rank()]
            centering.observe(mine[:1])
            centering.observe(mine[1:])
            centering.fold()
        mine = rows_of(split)[distributed.rank()]
        results[split] = sinkhorn_knopp(mine, TEMPERATURE), centering.center
    return results


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, tuple[Tensor, Tensor]]]:
    return run_processes(every_result, 2, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("split", SPLITS)
def test_sinkhorn(ranks: list[dict[str, tuple[Tensor, Tensor]]], split: str) -> None:
    whole = sinkhorn_knopp(torch.cat(rows_of(split)), TEMPERATURE)
    parts = [rank[split][0] for rank in ranks]
    assert tuple(len(part) for part in parts) == SPLITS[split]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("split", SPLITS)
def test_centre(ranks: list[dict[str, tuple[Tensor, Tensor]]], split: str) -> None:
    """The mean over the rows of all ranks, however they are split."""
    expected = torch.zeros(1, PROTOTYPES)
    for step in range(3):
        rows = torch.cat(rows_of(split, step))
        if len(rows):
            expected = 0.9 * expected + 0.1 * rows.mean(dim=0, keepdim=True)
    for rank in ranks:
        torch.testing.assert_close(rank[split][1], expected)
