"""Parameter groups against the official rules (reference §2.8)."""

import math

import pytest
import torch

from nexus.data.masking import MaskConfig
from nexus.models.ssl import DINOv2, ObjectiveConfig
from nexus.models.vision import architecture
from nexus.training.optim import (
    OptimConfig,
    build_optimizer,
    learning_rate_multiplier,
    parameter_groups,
    set_rates,
)


def tiny(**objective: object) -> DINOv2:
    vit = architecture("vit_tiny_patch8_reg2", img_size=32, depth=3, embed_dim=64, num_heads=1)
    small = {"out_dim": 32, "hidden_dim": 16, "bottleneck_dim": 8}
    return DINOv2.from_config(vit, ObjectiveConfig(**{**small, **objective}), MaskConfig())


@pytest.mark.parametrize("separate", [False, True])
def test_every_trainable_parameter_is_in_exactly_one_group(separate: bool) -> None:
    model = tiny(separate_patch_head=separate)
    grouped = [p for group in parameter_groups(model, OptimConfig()) for p in group["params"]]
    trainable = [p for p in model.parameters() if p.requires_grad]
    assert len(grouped) == len(set(map(id, grouped))) == len(trainable)
    assert set(map(id, grouped)) == set(map(id, trainable))


def test_no_teacher_parameter_is_trained() -> None:
    model = tiny(separate_patch_head=True)
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trainable
    assert all(name.startswith("student_") for name in trainable)


def test_learning_rate_multipliers_of_vit_large() -> None:
    config = OptimConfig(layer_decay=0.9, patch_embed_lr=0.2)
    expected = {
        "cls_token": 0.07179,
        "pos_embed": 0.07179,
        "mask_token": 0.07179,
        "register_tokens": 0.07179,
        "patch_embed.proj.weight": 0.014358,
        "patch_embed.proj.bias": 0.014358,
        "blocks.0.norm1.weight": 0.079766,
        "blocks.23.mlp.fc2.bias": 0.9,
        "norm.weight": 1.0,
    }
    for name, value in expected.items():
        assert learning_rate_multiplier(name, 24, config) == pytest.approx(value, rel=1e-4), name


def test_number_of_groups_of_vit_large_is_the_official_one() -> None:
    """52 for the backbone of ViT-L; the three of the head add the frozen last layer and merge the rest."""
    with torch.device("meta"):
        vit = architecture("vit_large_patch14")
        model = DINOv2.from_config(vit, ObjectiveConfig(), MaskConfig())
    groups = parameter_groups(model, OptimConfig())
    backbone = {id(p) for p in model.student_backbone.parameters()}
    assert sum(any(id(p) in backbone for p in group["params"]) for group in groups) == 52
    assert sum(group["last_layer"] for group in groups) == 1


def test_weight_decay_rule() -> None:
    model = tiny()
    names = {id(p): name for name, p in model.named_parameters()}
    decayed = {}
    for group in parameter_groups(model, OptimConfig()):
        decayed.update({names[id(p)]: bool(group["wd_multiplier"]) for p in group["params"]})
    for name in ("cls_token", "pos_embed", "mask_token", "register_tokens", "blocks.0.attn.qkv.weight"):
        assert decayed[f"student_backbone.{name}"]
    assert decayed["student_head.last_layer.weight_g"]
    assert decayed["student_head.last_layer.weight_v"]
    for name in ("blocks.0.norm1.weight", "blocks.0.ls1.gamma", "blocks.0.attn.qkv.bias", "norm.bias"):
        assert not decayed[f"student_backbone.{name}"]
    assert not decayed["student_head.mlp.0.bias"]


def test_frozen_last_layer_does_not_move_and_the_rest_does() -> None:
    model = tiny()
    optimizer = build_optimizer(model, OptimConfig())
    for p in model.parameters():
        p.grad = torch.ones_like(p) if p.requires_grad else None
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    set_rates(optimizer, lr=1e-2, last_layer_lr=0.0, weight_decay=0.1)
    optimizer.step()
    for name, p in model.named_parameters():
        moved = not torch.equal(p, before[name])
        assert moved == (name.startswith("student_") and "last_layer" not in name), name


@pytest.mark.parametrize(
    ("rule", "expected"), [("sqrt_1024", 4e-3 * math.sqrt(2)), ("linear_256", 4e-3 * 8), ("none", 4e-3)]
)
def test_learning_rate_scaling(rule: str, expected: float) -> None:
    assert OptimConfig(lr=4e-3, lr_scaling=rule).peak_lr(2048) == pytest.approx(expected)
