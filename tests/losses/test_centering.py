"""Softmax centering and Sinkhorn-Knopp against loops, official numbers and overflow."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nexus.losses import SinkhornKnopp, SoftmaxCentering, build_centering, numerics, sinkhorn_knopp
from tests.losses.oracles import fill, sinkhorn


def test_golden_centred_softmax() -> None:
    """G3: step t uses the centre of the steps before t."""
    logits = fill((8, 32))
    centering = SoftmaxCentering(32)
    first = centering.targets(logits, 0.04)
    centering.update(logits)
    assert first.std().item() == pytest.approx(9.199399e-2, rel=1e-5)
    assert centering.center.mean().item() == pytest.approx(2.537804e-5, rel=1e-4)
    assert centering.center.std().item() == pytest.approx(6.079614e-3, rel=1e-5)
    assert centering.center[0, :2].tolist() == pytest.approx([-0.004643, -0.006786], abs=1e-6)
    assert centering.targets(logits, 0.04).std().item() == pytest.approx(9.202494e-2, rel=1e-5)


def test_golden_sinkhorn() -> None:
    """G1."""
    probs = sinkhorn_knopp(fill((8, 32)).roll(4, dims=0), 0.07)
    assert probs.mean().item() == pytest.approx(0.03125, rel=1e-6)
    assert probs.std().item() == pytest.approx(7.028586e-2, rel=1e-5)
    assert probs[:, 0].sum().item() == pytest.approx(0.285658, rel=1e-5)


def test_centre_is_the_moving_mean_of_the_steps() -> None:
    centering = SoftmaxCentering(5, momentum=0.7)
    expected = torch.zeros(5)
    for rows in (4, 1, 6):
        logits = torch.randn(rows, 5)
        centering.update(logits)
        for k in range(5):
            expected[k] = 0.7 * expected[k] + 0.3 * sum(logits[:, k].tolist()) / rows
    torch.testing.assert_close(centering.center[0], expected)


def test_micro_batches_are_one_step() -> None:
    """Several `observe` and one `fold` move the centre as one large batch does."""
    whole, parts = SoftmaxCentering(5), SoftmaxCentering(5)
    logits = torch.randn(7, 5)
    whole.update(logits)
    for part in logits.split([4, 0, 3]):
        before = parts.targets(logits, 0.1)
        parts.observe(part)
        torch.testing.assert_close(parts.targets(logits, 0.1), before, rtol=0, atol=0)
    parts.fold()
    torch.testing.assert_close(parts.center, whole.center)


def test_a_step_without_rows_leaves_the_centre() -> None:
    centering = SoftmaxCentering(5)
    centering.update(torch.randn(3, 5))
    before = centering.center.clone()
    centering.update(torch.randn(0, 5))
    centering.fold()
    torch.testing.assert_close(centering.center, before, rtol=0, atol=0)


def test_only_the_centre_is_saved() -> None:
    centering = SoftmaxCentering(5)
    centering.observe(torch.randn(3, 5))
    assert list(centering.state_dict()) == ["center"]
    assert centering.state_dict()["center"].shape == (1, 5)
    assert not list(centering.parameters())
    assert not SinkhornKnopp().state_dict()
    centering.fold()
    assert centering.center.any()
    centering.reset_parameters()
    assert not centering.center.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_targets_are_computed_in_float32(dtype: torch.dtype) -> None:
    logits = (torch.randn(4, 9) * 1000).to(dtype)
    for kind in ("centering", "sinkhorn_knopp"):
        centering = build_centering(kind, 9)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = centering.targets(logits, 0.04)
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, centering.targets(logits.float(), 0.04), rtol=0, atol=0)
        centering.update(logits)
    total = SoftmaxCentering(1, momentum=0.0)
    total.update(torch.full((4000, 1), 60.0).to(dtype))
    assert total.center.item() == 60.0


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 7), st.integers(1, 9), st.integers(1, 4), st.integers(0, 999))
def test_sinkhorn_equals_the_loops(rows: int, prototypes: int, iterations: int, seed: int) -> None:
    torch.manual_seed(seed)
    logits = torch.rand(rows, prototypes) * 2 - 1
    expected = sinkhorn(logits, 0.07, iterations)
    got = sinkhorn_knopp(logits.double(), 0.07, iterations)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(
        sinkhorn_knopp(logits, 0.07, iterations), expected.float(), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("scale", [1.0, 5.0, 100.0, 1e4])
@pytest.mark.parametrize("offset", [0.0, -1000.0])
def test_sinkhorn_never_overflows(scale: float, offset: float) -> None:
    """The official exp gives NaN at scale 5; a row far below the others must keep its mass."""
    logits = torch.randn(12, 40) * scale
    logits[3] += offset
    probs = sinkhorn_knopp(logits, 0.04)
    assert probs.isfinite().all()
    torch.testing.assert_close(probs.sum(dim=1), torch.ones(12), rtol=0, atol=1e-5)
    sums = sinkhorn_knopp(logits.double(), 0.04).sum(dim=1)
    torch.testing.assert_close(sums, torch.ones(12, dtype=torch.float64), rtol=0, atol=1e-9)


@pytest.mark.parametrize("shift", [-500.0, 500.0])
def test_sinkhorn_is_blind_to_a_common_shift(shift: float) -> None:
    logits = torch.randn(6, 20, dtype=torch.float64)
    torch.testing.assert_close(sinkhorn_knopp(logits + shift, 0.05), sinkhorn_knopp(logits, 0.05))


def test_sinkhorn_balances_the_prototypes() -> None:
    """All rows prefer prototype 0; softmax gives it nearly all mass, Sinkhorn its share."""
    logits = torch.randn(64, 8) * 0.05
    logits[:, 0] += 1.0
    assert (logits / 0.05).softmax(1)[:, 0].mean() > 0.99
    usage = sinkhorn_knopp(logits, 0.05, 10).mean(dim=0)
    torch.testing.assert_close(usage, torch.full((8,), 1 / 8), rtol=0, atol=2e-3)


def test_sinkhorn_of_no_rows_is_empty() -> None:
    assert sinkhorn_knopp(torch.zeros(0, 5), 0.05).shape == (0, 5)


def test_slices_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(7, 9)
    whole = sinkhorn_knopp(logits, 0.05)
    monkeypatch.setattr(numerics, "WORKSPACE", 20)
    torch.testing.assert_close(sinkhorn_knopp(logits, 0.05), whole, rtol=1e-5, atol=1e-7)


def test_targets_leave_the_logits_alone() -> None:
    logits = torch.randn(4, 5)
    kept = logits.clone()
    for kind in ("centering", "sinkhorn_knopp"):
        build_centering(kind, 5).targets(logits, 0.1)
    torch.testing.assert_close(logits, kept, rtol=0, atol=0)


def test_build_centering() -> None:
    built = build_centering("centering", 7, 0.8)
    assert isinstance(built, SoftmaxCentering)
    assert (built.momentum, built.center.shape) == (0.8, (1, 7))
    assert isinstance(build_centering("sinkhorn_knopp", 7), SinkhornKnopp)
    assert isinstance(copy.deepcopy(built), SoftmaxCentering)
