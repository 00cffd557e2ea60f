"""Crops of several sizes in one pass over the blocks: the numbers and gradients of one pass for each size."""

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nexus.models.vision import VisionTransformer
from nexus.training.acceleration import checkpoint_blocks

GROUPS = ((5, 42, 56), (9, 28, 28), (1, 14, 14))
"""Images, height and width of each group: no two alike, one with a single patch."""


def tiny(**changes: Any) -> VisionTransformer:
    """A model whose every parameter matters."""
    torch.manual_seed(0)
    model = VisionTransformer(56, 14, 32, 3, 2, **changes)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.train()


def crops(dtype: torch.dtype = torch.float32) -> tuple[list[Tensor], list[Tensor | None]]:
    """Images of each group, and masks for the first."""
    images = [torch.randn(count, 3, height, width, dtype=dtype) for count, height, width in GROUPS]
    return images, [torch.rand(5, 12) < 0.4, None, None]


def gradients(model: nn.Module, outputs: Sequence[Tensor]) -> dict[str, Tensor]:
    model.zero_grad()
    sum((part**3).sum() for part in outputs).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        limit = tolerance * float(value.abs().max())
        torch.testing.assert_close(found[name], value, rtol=tolerance, atol=limit, msg=name)


SETTINGS = {
    "plain": {},
    "stochastic depth": {"drop_path_rate": 0.4},
    "registers, swiglu": {"num_register_tokens": 3, "ffn_layer": "swiglu", "drop_path_rate": 0.4},
    "no layer scale": {"init_values": None, "drop_path_rate": 0.9},
}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_list_equals_one_pass_for_each(name: str, dtype: torch.dtype) -> None:
    """Every kind of token and every gradient; the same seed draws the same stochastic depth."""
    model = tiny(**SETTINGS[name]).to(dtype)
    images, masks = crops(dtype)
    kinds = ("x_norm_clstoken", "x_norm_regtokens", "x_norm_patchtokens", "x_prenorm")
    results = []
    for together in (True, False):
        torch.manual_seed(7)
        if together:
            features = model.forward_features(images, masks)
        else:
            features = [model.forward_features(x, hidden) for x, hidden in zip(images, masks, strict=True)]
        assert [part["masks"] for part in features] == masks
        outputs = [part[kind] for part in features for kind in kinds]
        results.append((outputs, gradients(model, outputs)))
    (found, slopes), (expected, slopes_expected) = results
    tolerance = 1e-5 if dtype is torch.float32 else 1e-12
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    assert_close(slopes, slopes_expected, 10 * tolerance)


@pytest.mark.parametrize("name", SETTINGS)
def test_what_is_read_of_a_list_equals_one_pass_for_each(name: str) -> None:
    model = tiny(**SETTINGS[name]).double()
    images, masks = crops(torch.float64)
    wanted = [masks[0].flatten().nonzero().flatten(), None, torch.tensor([0])]
    results = []
    for together in (True, False):
        torch.manual_seed(7)
        if together:
            pairs = model.read_list(images, masks, wanted)
        else:
            pairs = [model.read(*arguments) for arguments in zip(images, masks, wanted, strict=True)]
        outputs = [part for pair in pairs for part in pair]
        results.append((outputs, gradients(model, outputs)))
    (found, slopes), (expected, slopes_expected) = results
    assert [len(part) for part in found] == [5, len(wanted[0]), 9, 0, 1, 1]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert_close(slopes, slopes_expected, 1e-11)


def test_each_group_draws_subsets_of_its_own_exact_size() -> None:
    """And every branch of every block sees all groups at once, without the images that it leaves out."""
    model = tiny(drop_path_rate=0.4)
    seen: list[int] = []
    for block in model.blocks:
        for layer in (block.norm1, block.norm2):
            layer.register_forward_hook(lambda _, args, output: seen.append(args[0].shape[0]))
    images, masks = crops()
    model.forward_features(images, masks)
    kept = 3 * 13 + 5 * 5 + 1 * 2  # int(5 · 0.6), int(9 · 0.6), at least one; tokens: 1 + patches
    assert seen == [kept] * 6
    model.eval().forward_features(images, masks)
    assert seen[6:] == [5 * 13 + 9 * 5 + 2] * 6


def test_groups_do_not_see_each_other() -> None:
    model = tiny()
    images, masks = crops()
    before = model.forward_features(images, masks)
    images[1] = images[1] + 1.0
    after = model.forward_features(images, masks)
    for kind in ("x_prenorm", "x_norm_clstoken"):
        assert torch.equal(before[0][kind], after[0][kind])
        assert torch.equal(before[2][kind], after[2][kind])
        assert not torch.equal(before[1][kind], after[1][kind])


@pytest.mark.parametrize("kind", ["selective", "full"])
def test_checkpointing_changes_nothing(kind: str) -> None:
    plain = tiny(drop_path_rate=0.4)
    images, masks = crops()
    results = []
    for model in (plain, copy.deepcopy(plain)):
        if model is not plain:
            checkpoint_blocks(model, kind)
        torch.manual_seed(3)
        pairs = model.read_list(images, masks, [None, None, None])
        torch.randn(100)  # whatever happens between the passes
        results.append(gradients(model, [cls for cls, _ in pairs]))
    for name, value in results[0].items():
        assert torch.equal(results[1][name], value), name


def test_half_precision_stays_close() -> None:
    model = tiny(drop_path_rate=0.4, init_values=0.1)
    images, masks = crops()
    results = []
    for together in (True, False):
        torch.manual_seed(7)
        with torch.autocast("cpu", torch.bfloat16):
            features = (
                model.forward_features(images, masks)
                if together
                else [model.forward_features(*pair) for pair in zip(images, masks, strict=True)]
            )
        results.append([part["x_norm_clstoken"] for part in features])
    torch.testing.assert_close(*results, rtol=0.05, atol=0.05)
