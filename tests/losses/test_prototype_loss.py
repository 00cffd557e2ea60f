"""The cross-entropy from features equals the one from tables: values, gradients, precision, slices."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from nexus.losses import Logits, PrototypeLoss, Targets, Term, entropy, numerics, prototype_loss
from nexus.losses.cross_entropy import cross_entropy

PAIRS = [[0.0, 0.2, 0.3, 0.3], [0.1, 0.0, 0.3, 0.3]]
TEMP, TEACHER_TEMP = 0.1, 0.05


def unit(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return F.normalize(torch.randn(*shape, dtype=dtype), dim=-1)


class Case:
    """Two terms of different shapes over the same 19 prototypes."""

    def __init__(self, dtype: torch.dtype = torch.float32, prototypes: bool = True) -> None:
        width = 6 if prototypes else 19
        self.student = [unit(4, 5, width, dtype=dtype), unit(1, 7, width, dtype=dtype)]
        self.teacher = [unit(10, width, dtype=dtype), unit(7, width, dtype=dtype)]
        self.weights = [torch.rand(5, dtype=dtype), torch.rand(7, dtype=dtype)]
        self.prototypes = unit(19, 6, dtype=dtype).requires_grad_() if prototypes else None
        self.teacher_prototypes = unit(19, 6, dtype=dtype) if prototypes else None
        self.offset = torch.randn(1, 19, dtype=dtype)
        for x in self.student:
            x.requires_grad_()

    def targets(self) -> list[Targets]:
        rows = [Logits(x, self.teacher_prototypes) for x in self.teacher]
        return [Targets(logits, TEACHER_TEMP, self.offset) for logits in rows]

    def fused(self, half: torch.dtype | None = None) -> PrototypeLoss:
        terms = []
        shared = zip(self.student, self.targets(), (PAIRS, [[1.0]]), self.weights, strict=True)
        for x, targets, pairs, weight in shared:
            if half:
                logits = Logits(targets.logits.features.to(half), self.teacher_prototypes)
                x, targets = x.to(half), Targets(logits, TEACHER_TEMP, self.offset)
            terms.append(Term(x, targets, pairs, weight))
        return prototype_loss(self.prototypes, terms, TEMP)

    def plain(self) -> Tensor:
        total = torch.zeros((), dtype=self.offset.dtype)
        shared = zip(self.student, self.teacher, (PAIRS, [[1.0]]), self.weights, strict=True)
        for x, teacher, pairs, weight in shared:
            probs = (self.logits(teacher, self.teacher_prototypes) / TEACHER_TEMP - self.offset).softmax(1)
            table = cross_entropy(self.logits(x, self.prototypes), probs.unflatten(0, (len(pairs), -1)), TEMP)
            total = total + (torch.tensor(pairs, dtype=table.dtype)[:, :, None] * weight * table).sum()
        return total

    @staticmethod
    def logits(x: Tensor, prototypes: Tensor | None) -> Tensor:
        return x if prototypes is None else x @ prototypes.T

    def gradients(self, loss: Tensor, factor: float = 1.0) -> list[Tensor]:
        inputs = [*self.student, *([] if self.prototypes is None else [self.prototypes])]
        return list(torch.autograd.grad(factor * loss, inputs))


@pytest.mark.parametrize("prototypes", [True, False])
@pytest.mark.parametrize("small", [False, True])
def test_equals_the_tables(prototypes: bool, small: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in slices of one row; without prototypes the features are the logits (the seed's head)."""
    if small:
        monkeypatch.setattr(numerics, "TABLE", 20)
        monkeypatch.setattr(numerics, "CACHE", 20)
    case = Case(torch.float64, prototypes)
    got, expected = case.fused(), case.plain()
    torch.testing.assert_close(got.loss, expected)
    for a, b in zip(case.gradients(got.loss, 3.0), case.gradients(expected, 3.0), strict=True):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(torch.cat(list(got.crops)).sum(), expected)


def test_entropy_is_that_of_the_targets() -> None:
    case = Case()
    for targets, got in zip(case.targets(), case.fused().entropy, strict=True):
        torch.testing.assert_close(got, entropy(targets.log_probs(targets.logits[:]).exp()))


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_precision_is_close_and_keeps_small_slopes(half: torch.dtype) -> None:
    """Row weights as small as 1e-9 must not vanish, as float16 would make them."""
    case = Case()
    case.weights = [1e-9 * weight for weight in case.weights]
    got, expected = case.fused(half), case.plain()
    assert got.loss.dtype == torch.float32
    torch.testing.assert_close(got.loss * 1e9, expected * 1e9, rtol=0.05, atol=0.05)
    for a, b in zip(case.gradients(got.loss, 1e9), case.gradients(expected, 1e9), strict=True):
        assert (a - b).norm() < 0.05 * b.norm()


def test_without_rows_or_graph() -> None:
    empty = unit(1, 0, 6).requires_grad_()
    targets = Targets(Logits(unit(0, 6), unit(19, 6)), TEACHER_TEMP, torch.zeros(1, 19))
    result = prototype_loss(
        unit(19, 6).requires_grad_(), [Term(empty, targets, [[1.0]], torch.zeros(0))], TEMP
    )
    result.loss.backward()
    assert result.loss.item() == 0.0
    with torch.no_grad():
        case = Case()
        torch.testing.assert_close(case.fused().loss, case.plain())


def test_no_table_outlives_the_forward_pass() -> None:
    case = Case()
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        case.fused()
    assert {x.shape for x in kept} == {x.shape for x in case.student}


def test_logits_made_late_are_the_table() -> None:
    features, prototypes = unit(7, 6), unit(19, 6)
    late, table = Logits(features, prototypes), features @ prototypes.T
    assert late.shape == (7, 19)
    torch.testing.assert_close(late[2:5], table[2:5])
    torch.testing.assert_close(late.column_sums(), table.sum(0, keepdim=True))
    torch.testing.assert_close(late.kept()[:], table)
    parts = Targets(late, 0.1, torch.zeros(1, 19)).split([3, 4])
    torch.testing.assert_close(parts[1].logits[:], table[3:])
