"""The defaults and the two official recipes, value by value, against the official table (reference §2.7)."""

import pytest

from nexus.config import build
from nexus.training import TrainConfig
from nexus.training.config import Schedules
from nexus.training.recipes import read_recipe
from nexus.training.state import vit_config

EPOCH = 1250  # official iterations
SHORT = {  # the official default YAML, which is the ViT-L/16 recipe
    "objective.dino_weight": 1.0,
    "objective.out_dim": 65536,
    "objective.bottleneck_dim": 256,
    "objective.head_layers": 3,
    "objective.hidden_dim": 2048,
    "objective.koleo_weight": 0.1,
    "objective.ibot_weight": 1.0,
    "objective.separate_patch_head": False,
    "objective.patch_bottleneck_dim": 256,
    "objective.centering": "centering",
    "objective.center_momentum": 0.9,
    "objective.student_temp": 0.1,
    "masks.probability": 0.5,
    "masks.ratio_min": 0.1,
    "masks.ratio_max": 0.5,
    "schedule.batch_size": 64 * 32,
    "schedule.steps": 100 * EPOCH,
    "model.arch": "vit_large_patch16",
    "model.drop_path_rate": 0.3,
    "model.init_values": 1e-5,
    "teacher.momentum": 0.992,
    "teacher.momentum_end": 1.0,
    "teacher.temp_start": 0.04,
    "teacher.temp": 0.07,
    "teacher.temp_warmup_steps": 30 * EPOCH,
    "optim.weight_decay": 0.04,
    "optim.weight_decay_end": 0.4,
    "optim.lr": 4e-3,
    "optim.lr_scaling": "sqrt_1024",
    "optim.warmup_steps": 10 * EPOCH,
    "optim.min_lr": 1e-6,
    "optim.clip_grad": 3.0,
    "optim.freeze_last_layer_steps": EPOCH,
    "optim.patch_embed_lr": 0.2,
    "optim.layer_decay": 0.9,
    "optim.beta1": 0.9,
    "optim.beta2": 0.999,
    "crops.global_scale": (0.32, 1.0),
    "crops.global_size": 224,
    "crops.local_number": 8,
    "crops.local_scale": (0.05, 0.32),
    "crops.local_size": 96,
    "crops.ratio": (3 / 4, 4 / 3),
    "crops.flip": 0.5,
    "crops.jitter": 0.8,
    "crops.brightness": 0.4,
    "crops.contrast": 0.4,
    "crops.saturation": 0.2,
    "crops.hue": 0.1,
    "crops.grayscale": 0.2,
    "crops.blur_global1": 0.0,
    "crops.blur_global2": 0.9,
    "crops.blur_local": 0.5,
    "crops.blur_kernel": 9,
    "crops.blur_sigma": (0.1, 2.0),
    "crops.solarize_global2": 0.2,
    "crops.solarize_threshold": 128,
    "data.workers": 10,
}
LONG = SHORT | {  # what the official ViT-L/14 YAML changes
    "objective.out_dim": 131072,
    "objective.bottleneck_dim": 384,
    "objective.separate_patch_head": True,
    "objective.patch_out_dim": 131072,
    "objective.centering": "sinkhorn_knopp",
    "schedule.batch_size": 32 * 96,
    "schedule.steps": 500 * EPOCH,
    "model.arch": "vit_large_patch14_swiglu",
    "model.drop_path_rate": 0.4,
    "teacher.momentum": 0.994,
    "optim.weight_decay_end": 0.2,
    "optim.lr": 2e-4,
    "optim.warmup_steps": 80 * EPOCH,
    "optim.layer_decay": 1.0,
    "crops.local_size": 98,
}
NOT_DEFAULTS = {"model.drop_path_rate", "data.workers"}
"""0 and the number of cores: docs/fidelity.md."""


def leaf(config: TrainConfig, dotted: str) -> object:
    section, name = dotted.split(".")
    return getattr(getattr(config, section), name)


@pytest.mark.parametrize(("recipe", "table"), [("vitl16-in1k", SHORT), ("vitl14-in22k", LONG)])
def test_recipes_hold_the_official_values(recipe: str, table: dict[str, object]) -> None:
    config = build(TrainConfig, read_recipe(recipe))
    assert {key: leaf(config, key) for key in table} == table


def test_defaults_are_the_official_short_recipe() -> None:
    config = TrainConfig()
    table = {key: value for key, value in SHORT.items() if key not in NOT_DEFAULTS}
    assert {key: leaf(config, key) for key in table} == table


@pytest.mark.parametrize(
    ("recipe", "peak", "ffn", "grid"),
    [("vitl16-in1k", 5.657e-3, "mlp", (14, 6)), ("vitl14-in22k", 3.464e-4, "swiglufused", (16, 7))],
)
def test_what_follows_from_a_recipe(recipe: str, peak: float, ffn: str, grid: tuple[int, int]) -> None:
    """Peak learning rate, schedules at their marks, and the backbone at whole patches."""
    config = build(TrainConfig, read_recipe(recipe))
    schedules = Schedules(config)
    warmup, total = config.optim.warmup_steps, config.schedule.steps
    assert schedules.at(0).lr == 0.0
    assert schedules.at(warmup).lr == pytest.approx(peak, rel=1e-3)
    assert (schedules.at(EPOCH - 1).last_layer_lr, schedules.at(EPOCH).last_layer_lr) == (
        0.0,
        schedules.at(EPOCH).lr,
    )
    assert schedules.at(15 * EPOCH).teacher_temp == pytest.approx(0.0550, abs=1e-4)
    assert schedules.at(total - 1).momentum == pytest.approx(1.0, abs=1e-8)
    assert schedules.at(total // 2).weight_decay == pytest.approx(
        (0.04 + config.optim.weight_decay_end) / 2, rel=1e-6
    )
    vit = vit_config(config.model, config.crops.global_size)
    assert (vit.ffn_layer, vit.depth, vit.embed_dim, vit.num_heads) == (ffn, 24, 1024, 16)
    assert (vit.num_register_tokens, vit.interpolate_antialias, vit.interpolate_offset) == (0, False, 0.1)
    assert (vit.qkv_bias, vit.proj_bias, vit.ffn_bias) == (True, True, True)
    sides = (config.crops.global_size, config.crops.local_size)
    assert tuple(side // vit.patch_size for side in sides) == grid
    assert all(side % vit.patch_size == 0 for side in sides)
