"""DINO loss against loops, official numbers and finite differences."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nexus.errors import ConfigError
from nexus.losses import dino_loss, dino_pair_losses, numerics, sinkhorn_knopp, split_pairs
from tests.losses.oracles import fill, pair_losses, random_probs


def test_golden_global_and_local_parts() -> None:
    """G2: official wiring, targets of G1."""
    teacher = sinkhorn_knopp(fill((8, 32)), 0.07).reshape(2, 4, 32)
    student = torch.cat([fill((8, 32), 1, 1), fill((32, 32), 1, 2)]).reshape(10, 4, 32)
    global_part, local_part = split_pairs(dino_pair_losses(student, teacher))
    assert local_part.item() == pytest.approx(10.191502, rel=1e-5)
    assert global_part.item() == pytest.approx(1.826953, rel=1e-5)
    assert dino_loss(student, teacher).item() == pytest.approx(12.018455, rel=1e-5)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 3), st.integers(0, 3), st.integers(1, 4), st.integers(1, 9), st.integers(0, 999))
def test_pairs_equal_the_loops(teachers: int, local: int, batch: int, prototypes: int, seed: int) -> None:
    torch.manual_seed(seed)
    student = torch.randn(teachers + local, batch, prototypes)
    teacher = random_probs(teachers, batch, prototypes)
    expected = pair_losses(student, teacher, 0.1)
    torch.testing.assert_close(
        dino_pair_losses(student, teacher), torch.tensor(expected), rtol=1e-5, atol=1e-5
    )
    pairs = [expected[t][s] for t in range(teachers) for s in range(teachers + local) if s != t]
    if pairs:
        mean = sum(pairs) / len(pairs)
        assert dino_loss(student, teacher).item() == pytest.approx(mean, rel=1e-5, abs=1e-5)


def test_eighteen_pairs_weigh_two_and_sixteen() -> None:
    global_part, local_part = split_pairs(torch.ones(2, 10))
    assert global_part.item() == pytest.approx(2 / 18)
    assert local_part.item() == pytest.approx(16 / 18)


def test_without_local_crops_the_local_part_is_zero() -> None:
    pairs = torch.tensor([[100.0, 3.0], [5.0, 100.0]])
    assert [part.item() for part in split_pairs(pairs)] == [4.0, 0.0]


@pytest.mark.parametrize("shape", [(1, 1), (2, 1)])
def test_no_pair_of_different_crops_is_an_error(shape: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match="no pair of different crops"):
        split_pairs(torch.ones(shape))


def test_gradient_by_finite_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    """Across several slices of rows, the last one shorter; targets need not sum to one."""
    monkeypatch.setattr(numerics, "WORKSPACE", 14)
    student = torch.randn(4, 5, 7, dtype=torch.float64, requires_grad=True)
    teacher = torch.rand(2, 5, 7, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda s: dino_pair_losses(s, teacher, 0.3), student)
    assert torch.autograd.gradcheck(lambda s: dino_loss(s, teacher, 0.3), student)


def test_slices_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher = torch.randn(3, 7, 11), random_probs(2, 7, 11)
    whole = dino_pair_losses(student, teacher)
    monkeypatch.setattr(numerics, "WORKSPACE", 25)
    torch.testing.assert_close(dino_pair_losses(student, teacher), whole, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_computed_in_float32(dtype: torch.dtype) -> None:
    """Logits of 60,000 over 0.1 overflow float16; in an autocast region too the result is float32."""
    student = (torch.randn(4, 3, 16) * 20_000).clamp(-60_000, 60_000).to(dtype).requires_grad_()
    exact = student.detach().float().requires_grad_()
    teacher = random_probs(2, 3, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = dino_loss(student, teacher)
    expected = dino_loss(exact, teacher)
    (loss * 0.01).backward()
    (expected * 0.01).backward()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=0, atol=0)
    assert student.grad is not None
    assert exact.grad is not None
    torch.testing.assert_close(student.grad, exact.grad.to(dtype), rtol=0, atol=0)


def test_autograd_keeps_no_table_of_its_own() -> None:
    """Only the logits and the probabilities, and nothing of their size beside them."""
    student = torch.randn(4, 3, 64).half().requires_grad_()
    teacher = random_probs(2, 3, 64)
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        dino_loss(student, teacher)
    tables = {x.data_ptr() for x in kept if x.numel() >= 3 * 64}
    assert tables == {student.data_ptr(), teacher.data_ptr()}


def test_teacher_gets_no_gradient() -> None:
    teacher = random_probs(2, 3, 4).requires_grad_()
    dino_loss(torch.randn(2, 3, 4, requires_grad=True), teacher).backward()
    assert teacher.grad is None
