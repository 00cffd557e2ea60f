"""The launcher itself: results in order, errors from any rank, nobody left waiting."""

from pathlib import Path

import pytest
import torch

from nexus import distributed
from nexus.errors import RunError
from tests.distributed.launch import run_processes


def gather(offset: int) -> tuple[int, int, list[int]]:
    everyone = distributed.all_gather(torch.tensor([distributed.rank() + offset]))
    return distributed.rank(), distributed.world_size(), everyone.tolist()


def fail_on_rank_one() -> None:
    if distributed.rank() == 1:
        raise RunError("a message of rank 1")
    distributed.all_reduce_sum(torch.zeros(1))


def test_results_come_in_rank_order(tmp_path: Path) -> None:
    assert run_processes(gather, 2, tmp_path, 5) == [(0, 2, [5, 6]), (1, 2, [5, 6])]


def test_an_error_of_one_rank_is_raised_here(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="a message of rank 1") as caught:
        run_processes(fail_on_rank_one, 2, tmp_path)
    assert "fail_on_rank_one" in caught.value.__notes__[0]
