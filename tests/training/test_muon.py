"""Muon beside AdamW: whose each parameter is, what a step is, and that a bad step is none."""

import torch

from nexus.training.muon import MuonAndAdamW
from nexus.training.optim import OptimConfig, build_optimizer, set_rates, step_where
from tests.training import runs
from tests.training.test_optim import tiny

MUON, ADAMW = OptimConfig(optimizer="muon"), OptimConfig()


def stepped(config, gradients_of, finite=True, steps=1):
    """A tiny model after some steps, its parameters before, and the optimizer."""
    torch.manual_seed(0)
    model = tiny()
    optimizer = build_optimizer(model, config)
    before = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    for step in range(steps):
        for name in before:
            parameter = model.get_parameter(name)
            parameter.grad = gradients_of(name, parameter, step)
        set_rates(optimizer, lr=1e-2, last_layer_lr=1e-2, weight_decay=0.0)
        step_where(torch.tensor(finite), optimizer)
    return model, before, optimizer


def random_gradients(name, parameter, step):
    generator = torch.Generator().manual_seed(hash((len(name), step)) % 2**31)
    return torch.randn(parameter.shape, generator=generator)


def muons(optimizer):
    return {p for group in optimizer.param_groups if group["muon"] for p in group["params"]}


def test_the_matrices_of_blocks_and_heads_are_muons():
    model = tiny()
    names = {p: name for name, p in model.named_parameters()}
    found = {names[p] for p in muons(build_optimizer(model, MUON))}
    blocks = {
        f"student_backbone.blocks.{block}.{part}.weight"
        for block in range(3)
        for part in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    }
    heads = {name for name in found if name.startswith("student_head.mlp.") and name.endswith(".weight")}
    assert len(heads) == 3
    assert found == blocks | heads
    assert not muons(build_optimizer(model, ADAMW))


def of_known_spectrum(name, parameter, step):
    """Matrices with singular values from 1 to 3 in random directions."""
    gradient = random_gradients(name, parameter, step)
    if parameter.ndim != 2:
        return gradient
    left, values, right = torch.linalg.svd(gradient, full_matrices=False)
    return left @ torch.linspace(3, 1, len(values)).diag() @ right


def test_a_step_goes_as_far_in_every_direction_of_the_gradient():
    """In the gradient's singular vectors it is about the identity times lr × 0.2 × sqrt(larger side)."""
    model, before, optimizer = stepped(MUON, of_known_spectrum)
    for name, start in before.items():
        parameter = model.get_parameter(name)
        if parameter in muons(optimizer):
            size = 1e-2 * 0.2 * max(parameter.shape) ** 0.5
            left, _, right = torch.linalg.svd(of_known_spectrum(name, parameter, 0), full_matrices=False)
            seen = left.T @ (start - parameter.detach()) @ right.T / size
            assert 0.4 < float(seen.diag().min()) <= float(seen.diag().max()) < 1.3, name
            assert float((seen - seen.diag().diag()).abs().max()) < 0.05, name


def test_everything_else_is_moved_as_by_adamw_alone():
    model, _, optimizer = stepped(MUON, random_gradients, steps=3)
    alone, _, _ = stepped(ADAMW, random_gradients, steps=3)
    others = [n for n, p in model.named_parameters() if p.requires_grad and p not in muons(optimizer)]
    assert len(others) > 10
    for name in others:
        assert torch.equal(model.get_parameter(name), alone.get_parameter(name)), name


def test_a_step_that_is_not_finite_changes_nothing():
    model, before, optimizer = stepped(
        MUON, lambda name, p, step: torch.full_like(p, float("nan")), finite=False
    )
    assert all(torch.equal(model.get_parameter(name), start) for name, start in before.items())
    kept = [value for state in optimizer.state.values() for value in state.values()]
    assert not any(bool(value.isnan().any()) for value in kept)


def test_a_frozen_matrix_rate_of_zero_moves_nothing():
    model = tiny()
    optimizer = build_optimizer(model, MUON)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    set_rates(optimizer, lr=0.0, last_layer_lr=0.0, weight_decay=0.1)
    optimizer.step()
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_a_run_keeps_one_momentum_for_a_matrix(tmp_path):
    runs.run(tmp_path / "run", optim__optimizer="muon")
    state = runs.restored(tmp_path / "run")
    assert isinstance(state.optimizer, MuonAndAdamW)
    matrix = "optimizer.student_backbone.blocks.0.attn.qkv.weight."
    assert [name for name in state.tensors if name.startswith(matrix)] == [f"{matrix}momentum_buffer"]
    assert float(state.tensors[f"{matrix}momentum_buffer"].abs().max()) > 0
