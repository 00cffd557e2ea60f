"""Runs that are well and runs that are ill on purpose, for `benchmarks/doctor.py` and the tests.

A fault that a setting can cause is a setting. One that takes a mistake in code is planted into the freshly
built model (`plant`), or into the images (`copied`).
"""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from nexus.data.datasets import open_dataset
from nexus.demo import demo_data
from nexus.models.ssl import DINOv2
from nexus.models.vision import build_backbone
from nexus.training import loop

Settings = dict[str, Any]

BASE: Settings = {
    "compute.device": "cpu",
    "compute.threads": 1,
    "compute.precision": "fp32",
    "data.workers": 0,
    "data.engine": "cpu",
    "model.arch": "vit_tiny_patch8",
    "model.depth": 2,
    "model.embed_dim": 64,
    "model.num_heads": 2,
    "model.init_values": 1.0,
    "objective.out_dim": 256,
    "objective.hidden_dim": 128,
    "objective.bottleneck_dim": 32,
    "crops.global_size": 32,
    "crops.local_size": 16,
    "crops.local_number": 2,
    "crops.blur_global2": 0.1,
    "crops.blur_local": 0.1,
    "crops.solarize_global2": 0.1,
    "schedule.steps": 150,
    "schedule.batch_size": 16,
    "optim.optimizer": "adamw",
    "optim.lr": 4e-3,
    "optim.layer_decay": 1.0,
    "optim.patch_embed_lr": 1.0,
    "optim.warmup_steps": 10,
    "optim.freeze_last_layer_steps": 0,
    "teacher.momentum": 0.95,
    "teacher.temp_start": 0.04,
    "teacher.temp": 0.04,
    "teacher.temp_warmup_steps": 0,
    "log.every": 5,
    "health.every": 15,
    "online_eval.every": 0,
    "checkpoint.every": 10_000,
}
"""A tiny run that learns: 16 images of 32 pixels a step, 12 ms a step on an idle core."""

DATA = "synthetic:n=512,size=32,classes=6"


@dataclass(frozen=True)
class Case:
    """One run and the name that the doctor should find; none for a healthy one."""

    name: str
    expected: str | None
    settings: Settings = field(default_factory=dict)
    plant: Callable[[DINOv2], None] | None = None
    data: str = DATA
    copied: bool = False
    """Whether the images are replaced by many copies of a few."""


def _teacher_with_drop_path(model: DINOv2) -> None:
    """The teacher's blocks skip branches, as if `eval()` had been forgotten."""
    config = model.teacher_backbone.config.model_copy(update={"drop_path_rate": 0.3})
    noisy = build_backbone(config)
    noisy.load_state_dict(model.teacher_backbone.state_dict())
    model.teacher_backbone = noisy.requires_grad_(False).train()


def _dead_prototypes(model: DINOv2) -> None:
    """All prototypes but five are handicapped so far that the teacher never chooses them."""
    offset = model.centering.offset
    handicap = torch.zeros_like(model.center)
    handicap[:, 5:] = 100.0
    model.centering.offset = lambda *arguments: offset(*arguments) + handicap  # type: ignore[method-assign]


def _overflowing(model: DINOv2) -> None:
    """Activations beyond what fp16 holds."""
    with torch.no_grad():
        for backbone in (model.student_backbone, model.teacher_backbone):
            backbone.blocks[-1].mlp.fc2.weight.mul_(1e6)


FAULTS = (
    Case(
        "teacher temperature as the student's",
        "uniform-collapse",
        {"teacher.temp_start": 0.1, "teacher.temp": 0.1},
    ),
    Case("teacher temperature 0.5", "uniform-collapse", {"teacher.temp_start": 0.5, "teacher.temp": 0.5}),
    Case("last layer frozen", "last-layer-frozen", {"optim.freeze_last_layer_steps": 10**6}),
    Case("learning rate 0", "no-learning-rate", {"optim.lr": 0.0, "optim.min_lr": 0.0}),
    Case("no centring", "one-hot-collapse", {"objective.center_momentum": 1.0}),
    Case("no KoLeo, batch 16", "dimensional-collapse", {"objective.koleo_weight": 0.0, "seed": 11}),
    Case(
        "no KoLeo, batch 2", "dimensional-collapse", {"objective.koleo_weight": 0.0, "schedule.batch_size": 2}
    ),
    Case("prototypes dead", "dying-prototypes", plant=_dead_prototypes),
    Case("iBOT only", "ibot-only", {"objective.dino_weight": 0.0}),
    Case("teacher drops paths", "teacher-not-in-eval", plant=_teacher_with_drop_path),
    Case("momentum 0", "momentum-too-low", {"teacher.momentum": 0.0, "teacher.momentum_end": 0.0}),
    Case("momentum 0.9999", "momentum-too-high", {"teacher.momentum": 0.9999}),
    Case(
        "blur",
        "blur-too-strong",
        {
            "crops.blur_global1": 1.0,
            "crops.blur_global2": 1.0,
            "crops.blur_local": 1.0,
            "crops.blur_sigma": [3.0, 5.0],
            "crops.blur_kernel": 15,
        },
        data=str(demo_data() / "photos-train.tar"),
    ),
    Case(
        "colour",
        "colour-too-strong",
        {
            "crops.jitter": 1.0,
            "crops.brightness": 1.0,
            "crops.contrast": 1.0,
            "crops.saturation": 1.0,
            "crops.hue": 0.5,
            "crops.grayscale": 0.5,
            "crops.solarize_global2": 1.0,
        },
    ),
    Case("copies", "duplicate-heavy-data", copied=True),
    Case("fp16 overflow", "not-finite", {"compute.precision": "fp16"}, plant=_overflowing),
)


OFFICIAL_CROPS: Settings = {"crops.blur_global2": 0.9, "crops.blur_local": 0.5, "crops.solarize_global2": 0.2}
LONG: Settings = {"schedule.steps": 300, "health.every": 30, "log.every": 10, "optim.warmup_steps": 30}


def healthy(photos: str, small: str) -> tuple[Case, ...]:
    """Twenty runs of different size, seed, data and settings, all within what people do.

    `photos` and `small` are data sets of photographs and of 32-pixel images.
    """
    return (
        *(Case(f"base, seed {seed}", None, {"seed": seed}) for seed in range(1, 5)),
        Case("300 steps", None, {**LONG, "seed": 5}),
        Case("width 32, depth 1", None, {"model.embed_dim": 32, "model.num_heads": 1, "model.depth": 1}),
        Case(
            "width 96, depth 4",
            None,
            {"model.embed_dim": 96, "model.num_heads": 3, "model.depth": 4, "seed": 6},
        ),
        Case("batch 8", None, {"schedule.batch_size": 8, "seed": 7}),
        Case("batch 48", None, {"schedule.batch_size": 48, "seed": 8}),
        Case("2048 prototypes", None, {"objective.out_dim": 2048, "objective.bottleneck_dim": 64, "seed": 9}),
        Case("Sinkhorn-Knopp", None, {"objective.centering": "sinkhorn_knopp", "seed": 10}),
        Case("KoLeo 0.05", None, {"objective.koleo_weight": 0.05, "seed": 11}),
        Case("few images", None, {"seed": 12}, data="synthetic:n=100,size=32,classes=4,seed=3"),
        Case("bf16", None, {"compute.precision": "bf16", "seed": 13}),
        Case("official crops", None, {**OFFICIAL_CROPS, "seed": 14}, data=photos),
        Case("photos", None, {"seed": 15}, data=photos),
        Case("photos, momentum 0.99", None, {**LONG, "teacher.momentum": 0.99, "seed": 16}, data=photos),
        Case("small photos", None, {"seed": 17}, data=small),
        Case("small photos, patch 4", None, {"model.arch": "vit_tiny_patch4", "seed": 18}, data=small),
        Case(
            "official LayerScale, temperature, freezing",
            None,
            {
                **LONG,
                "model.init_values": 1e-5,
                "teacher.temp": 0.07,
                "teacher.temp_warmup_steps": 90,
                "optim.freeze_last_layer_steps": 3,
                "seed": 19,
            },
            data=small,
        ),
    )


def copies_of(data: str, folder: Path, originals: int = 24, times: int = 20) -> Path:
    """A folder in which each of a few images lies many times."""
    images = open_dataset(data, None)
    folder.mkdir(parents=True, exist_ok=True)
    for original, turn in itertools.product(range(originals), range(times)):
        (folder / f"{original:03d}_{turn:03d}.png").write_bytes(images.read(original))
    return folder


@contextmanager
def planted(plant: Callable[[DINOv2], None] | None) -> Iterator[None]:
    """Within the block a run gets its model with the fault in it."""
    build = loop.build_state

    def build_and_plant(*args: Any, **keywords: Any) -> Any:
        state = build(*args, **keywords)
        if plant:
            plant(state.model)
            state.__post_init__()
        return state

    loop.build_state = build_and_plant  # type: ignore[assignment]
    try:
        yield
    finally:
        loop.build_state = build  # type: ignore[assignment]
