"""Agreement with lightly's losses and head, whose authors test them against the official code."""

import warnings

import pytest
import torch

from nexus.data.batch import Masks
from nexus.losses import SoftmaxCentering, dino_loss, ibot_loss, koleo_loss, sinkhorn_knopp
from nexus.models.ssl.head import DINOv2Head

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    modules = pytest.importorskip("lightly.models.modules")
    losses = pytest.importorskip("lightly.loss")
    swav = pytest.importorskip("lightly.loss.swav_loss")


def test_dino_loss_and_centre_over_several_steps() -> None:
    theirs = losses.DINOLoss(output_dim=24, teacher_temp=0.05, student_temp=0.1)
    centering = SoftmaxCentering(24)
    for _ in range(4):
        student, teacher = torch.randn(10, 3, 24), torch.randn(2, 3, 24) + 0.5
        probs = centering.targets(teacher.flatten(0, 1), 0.05).unflatten(0, (2, 3))
        expected = theirs(list(teacher), list(student), teacher_temp=0.05)
        torch.testing.assert_close(dino_loss(student, probs), expected, rtol=1e-5, atol=1e-5)
        centering.update(teacher.flatten(0, 1))
        torch.testing.assert_close(centering.center, theirs.center[0], rtol=1e-5, atol=1e-6)


def test_ibot_loss_and_gradient() -> None:
    grid = torch.rand(8, 4, 4) < 0.3
    grid[2] = False
    masks = Masks.from_grid(grid.flatten(1))
    student = torch.randn(len(masks.index), 24, requires_grad=True)
    teacher = torch.randn(len(masks.index), 24)
    theirs = losses.IBOTPatchLoss(output_dim=24, teacher_temp=0.05)(teacher, student, grid)
    ours = ibot_loss(student, (teacher / 0.05).softmax(1), masks.weight, crops=8)
    torch.testing.assert_close(ours, theirs)
    (a,), (b,) = torch.autograd.grad(ours, student), torch.autograd.grad(theirs, student)
    torch.testing.assert_close(a, b)


def test_koleo() -> None:
    x = torch.randn(16, 12)
    torch.testing.assert_close(koleo_loss(x), losses.KoLeoLoss()(x))


def test_sinkhorn() -> None:
    logits = torch.rand(16, 40) * 2 - 1
    torch.testing.assert_close(
        sinkhorn_knopp(logits, 0.07), swav.sinkhorn(logits, 3, 0.07), rtol=1e-4, atol=1e-6
    )


def test_head() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = modules.DINOv2ProjectionHead(12, 16, 8, 20)
    ours = DINOv2Head(12, 16, 20, 8)
    theirs.last_layer.weight_g.data.uniform_(0.5, 1.5)
    state = {k.replace("layers.", "mlp."): v for k, v in theirs.state_dict().items()}
    ours.load_state_dict(state)
    assert list(ours.state_dict()) == list(state)
    x = torch.randn(5, 12)
    a, b = ours(x), theirs(x)
    torch.testing.assert_close(a, b)
    weight = torch.randn(5, 20)
    (a * weight).sum().backward()
    (b * weight).sum().backward()
    for mine, reference in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, reference.grad)
