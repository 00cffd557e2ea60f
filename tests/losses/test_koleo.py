"""KoLeo against loops, official numbers and finite differences."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nexus.losses import koleo_loss
from nexus.losses.koleo import nearest_neighbours
from tests.losses.oracles import fill, koleo


def test_golden() -> None:
    """G5."""
    x = fill((6, 10), 1, 0.3) * torch.linspace(0.5, 2, 6)[:, None]
    assert koleo_loss(x).item() == pytest.approx(0.328082, abs=2e-6)
    unit = torch.nn.functional.normalize(x, dim=1)
    assert nearest_neighbours(unit).tolist() == [5, 3, 4, 1, 2, 0] == koleo(x)[1]


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 9), st.integers(2, 12), st.integers(0, 999))
def test_equals_the_loops(batch: int, dim: int, seed: int) -> None:
    x = torch.randn(batch, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    assert koleo_loss(x).item() == pytest.approx(koleo(x)[0], rel=1e-9, abs=1e-9)
    assert koleo_loss(x.float()).item() == pytest.approx(koleo(x)[0], rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_an_identical_pair_is_finite(dtype: torch.dtype) -> None:
    x = torch.randn(6, 16)
    x[3] = x[1]
    x = x.to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = koleo_loss(x)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(koleo(x.detach())[0], rel=1e-3)
    loss.backward()
    assert x.grad is not None
    assert dtype == torch.float16 or x.grad.isfinite().all()


def test_autocast_does_not_choose_other_neighbours() -> None:
    """Cosines of 0.99 and 0.991 are one number in bfloat16."""
    x = 1.0 + 0.05 * torch.randn(64, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert koleo_loss(x).item() == pytest.approx(koleo(x)[0], rel=1e-4)


def test_opposite_pair_is_each_others_neighbour() -> None:
    """The official diagonal of -1 ties with a cosine of -1; the distance of the two is 2."""
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert koleo_loss(x).item() == pytest.approx(-math.log(2), rel=1e-5)


@pytest.mark.parametrize("batch", [0, 1])
def test_no_neighbour_is_zero_with_a_graph(batch: int) -> None:
    x = torch.randn(batch, 4, requires_grad=True)
    loss = koleo_loss(x)
    loss.backward()
    assert loss.item() == 0.0
    assert x.grad is not None
    assert not x.grad.any()


def test_a_zero_feature_is_finite() -> None:
    x = torch.randn(4, 5)
    x[2] = 0.0
    assert koleo_loss(x).isfinite()


def test_gradient_by_finite_differences() -> None:
    x = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(koleo_loss, x)


def test_gradient_reaches_both_ends_of_a_pair() -> None:
    """Row 0 is nobody's choice, yet its neighbour moves because of it."""
    x = torch.tensor([[1.0, 0.9], [1.0, 0.1], [1.0, 0.0]], requires_grad=True)
    assert nearest_neighbours(torch.nn.functional.normalize(x.detach())).tolist() == [1, 2, 1]
    koleo_loss(x).backward()
    assert x.grad is not None
    assert (x.grad.norm(dim=1) > 1e-3).all()
