"""Checkpointing changes memory and nothing else; compilation says why it cannot; the profile is written."""

import json
import shutil
from contextlib import nullcontext

import pytest
import torch

from nexus.models.vision import VisionTransformer
from nexus.training.acceleration import checkpoint_blocks, compile_blocks, why_not_compiled
from nexus.training.auto import automatic
from nexus.training.choices import DataFacts
from tests.training import runs


def loss_and_gradients(kind: str, *, watch: bool = True) -> tuple[torch.Tensor, list[torch.Tensor], int]:
    """Of one pass with stochastic depth; and how many numbers autograd kept."""
    torch.manual_seed(0)
    model = VisionTransformer(28, 14, 32, 3, 2, drop_path_rate=0.5).train()
    checkpoint_blocks(model, kind)
    x = torch.randn(6, 3, 28, 28)
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.data_ptr()] = tensor.numel()
        return tensor

    torch.manual_seed(1)
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with hooks if watch else nullcontext():  # selective checkpointing keeps tensors beside the hooks
        loss = (model(x) ** 2).mean() + model.read(x)[0].square().mean()
    torch.randn(1000)  # whatever happens between the passes
    loss.backward()
    return loss.detach(), [p.grad for p in model.parameters() if p.grad is not None], sum(kept.values())


@pytest.mark.parametrize("kind", ["selective", "full"])
def test_checkpointing_changes_nothing_but_memory(kind: str) -> None:
    loss, gradients, kept = loss_and_gradients("none")
    same, others, less = loss_and_gradients(kind, watch=kind == "full")
    assert torch.equal(loss, same)
    assert all(torch.equal(a, b) for a, b in zip(gradients, others, strict=True))
    assert less < 0.8 * kept


def test_a_run_with_checkpointing_is_the_same_run(tmp_path) -> None:
    for kind in ("none", "full"):
        settings = {"model__drop_path_rate": 0.5, "model__depth": 2, "schedule__steps": 2}
        runs.run(tmp_path / kind, compute__checkpointing=kind, **settings)
    assert runs.fingerprint(tmp_path / "none")["student"] == runs.fingerprint(tmp_path / "full")["student"]


def test_without_a_compiler_the_log_says_so(monkeypatch, caplog) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    model = VisionTransformer(28, 14, 16, 1, 2)
    with caplog.at_level("WARNING", "nexus"):
        compile_blocks(model, torch.device("cpu"))
    assert "not compiled: there is no C++ compiler" in caplog.text
    assert model.blocks[0]._compiled_call_impl is None
    assert "does not serve mps" in why_not_compiled(torch.device("mps"))


def test_auto_does_not_compile_on_a_cpu() -> None:
    tree, choices = automatic({"compute": {"device": "cpu"}}, DataFacts(1000, 64))
    assert tree["compute"]["compile"] is False
    assert "gains little" in next(choice.reason for choice in choices if choice.key == "compute.compile")


def test_a_profile_is_a_trace_and_a_table(tmp_path) -> None:
    runs.run(tmp_path / "run", log__profile=True)
    folder = tmp_path / "run" / "profile"
    assert json.loads((folder / "trace.json").read_text())["traceEvents"]
    assert "aten::addmm" in (folder / "table.txt").read_text()
