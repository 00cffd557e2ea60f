"""What is done to the blocks of a backbone so that they cost less memory or time; results stay the same."""

import functools
import shutil
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from nexus.log import logger

Checkpointing = Literal["none", "selective", "full"]

_PRODUCTS = [
    torch.ops.aten.mm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten.bmm.default,
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.aten._scaled_dot_product_cudnn_attention.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
]
"""What takes long to compute again; everything else in a block is cheap and large."""


def checkpoint_blocks(backbone: nn.Module, kind: Checkpointing) -> None:
    """Let the blocks keep less for the backward pass and compute it again there.

    `full` keeps what enters a block, `selective` also the results of matrix products and attention. The
    random state of the forward pass is restored, so stochastic depth draws the same images: loss and
    gradients are bit for bit those of `none`.
    """
    if kind == "none":
        return
    keywords: dict[str, Any] = {"use_reentrant": False}
    if kind == "selective":
        keywords["context_fn"] = functools.partial(create_selective_checkpoint_contexts, _PRODUCTS)
    for block in _blocks(backbone):
        block.forward = _recomputed(block.forward, keywords)


def _recomputed(forward: Callable[..., Any], keywords: dict[str, Any]) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*arguments)
        return checkpoint(forward, *arguments, **keywords)

    return call


def compile_blocks(backbone: nn.Module, device: torch.device) -> None:
    """Compile each block by itself: one short compilation serves them all. Says why where it cannot."""
    if reason := why_not_compiled(device):
        logger.warning("the blocks are not compiled: %s", reason)
        return
    for block in _blocks(backbone):
        block.compile()


def why_not_compiled(device: torch.device) -> str:
    """What `torch.compile` lacks for a device; empty if nothing."""
    if device.type == "cuda":
        from importlib.util import find_spec

        return "" if find_spec("triton") else "Triton is not installed"
    if device.type == "cpu":
        return "" if shutil.which("g++") or shutil.which("clang++") else "there is no C++ compiler (g++)"
    return f"torch.compile does not serve {device.type}"


def _blocks(backbone: nn.Module) -> nn.ModuleList:
    blocks = backbone.blocks
    assert isinstance(blocks, nn.ModuleList)
    return blocks
