"""iBOT loss against loops, official numbers and finite differences."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nexus.data.batch import Masks
from nexus.losses import ibot_loss
from tests.losses.oracles import cross_entropy, fill, random_probs


def test_golden() -> None:
    """G4: four of eight crops masked, with 3, 5, 6 and 4 patches."""
    grid = torch.zeros(8, 16, dtype=torch.bool)
    grid[0, 0:3] = grid[2, 4:9] = grid[5, 10:16] = True
    grid[7, [0, 4, 8, 12]] = True
    student = fill((18, 32), 1, 0.5)
    teacher = (fill((18, 32), 1, 1.5) / 0.07).softmax(-1)
    loss = ibot_loss(student, teacher, Masks.from_grid(grid).weight, crops=8)
    assert loss.item() == pytest.approx(3.082677, rel=1e-5)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=5), st.integers(1, 9), st.integers(0, 999))
def test_equals_the_loops(hidden: list[int], prototypes: int, seed: int) -> None:
    """Mean over each crop's hidden patches, summed over crops, divided by all crops."""
    torch.manual_seed(seed)
    grid = torch.arange(4).expand(len(hidden), 4) < torch.tensor(hidden)[:, None]
    student, teacher = torch.randn(sum(hidden), prototypes), random_probs(sum(hidden), prototypes)
    total, row = 0.0, 0
    for count in hidden:
        for _ in range(count):
            loss = cross_entropy(student[row].tolist(), teacher[row].tolist(), 0.1)
            total += loss / count
            row += 1
    got = ibot_loss(student, teacher, Masks.from_grid(grid).weight, len(hidden))
    assert got.item() == pytest.approx(total / len(hidden), rel=1e-5, abs=1e-5)


def test_half_of_the_crops_masked_is_half_the_mean() -> None:
    grid = torch.zeros(6, 8, dtype=torch.bool)
    grid[::2, :4] = True
    student, teacher = torch.randn(12, 10), random_probs(12, 10)
    half = ibot_loss(student, teacher, Masks.from_grid(grid).weight, crops=6)
    full = ibot_loss(student, teacher, Masks.from_grid(grid[::2]).weight, crops=3)
    assert half.item() == pytest.approx(full.item() / 2)


def test_nothing_masked_is_zero_with_a_graph() -> None:
    features = torch.randn(0, 5, requires_grad=True)
    head = torch.nn.Linear(5, 7)
    loss = ibot_loss(head(features), torch.zeros(0, 7), torch.zeros(0), crops=4)
    loss.backward()
    assert loss.item() == 0.0
    assert head.weight.grad is not None
    assert not head.weight.grad.any()


def test_gradient_by_finite_differences() -> None:
    student = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    teacher, weight = random_probs(6, 5, dtype=torch.float64), torch.rand(6, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda s: ibot_loss(s, teacher, weight, 3, 0.2), student)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_equals_float32_of_the_same_numbers(dtype: torch.dtype) -> None:
    student, teacher, weight = torch.randn(6, 50).to(dtype), random_probs(6, 50), torch.rand(6)
    got = ibot_loss(student * 1000, teacher, weight, 3)
    assert got.dtype == torch.float32
    assert got.isfinite()
    assert got.item() == ibot_loss((student * 1000).float(), teacher, weight, 3).item()
