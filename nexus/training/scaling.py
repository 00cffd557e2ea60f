"""The choices that scale with the data, the batch, the device and the length of a run.

The official values are for 256 million images shown, 2,048 a step. Ours for short runs are those that worked
on a CPU (docs/log.md): with the official ones the loss of a short run does not leave ln K, the teacher lags
behind the student, and a LayerScale of 1e-5 never opens. Between our runs and the official ones nobody has
measured.
"""

import math

from nexus.models.vision import architecture
from nexus.training.choices import Chooser, DataFacts
from nexus.training.config import TrainConfig
from nexus.training.optim import LEARNING_RATE_RULES

SHORT = 10_000_000
"""Images shown in a run, below which the values for short runs are chosen."""
OFFICIAL = TrainConfig()
_SHOWN_PER_PROTOTYPE = 400
_LEAST_PROTOTYPES, _MOST_PROTOTYPES = 512, 65_536
_RUN_PER_TEACHER, _FASTEST, _SLOWEST = 60, 20, 125
"""The teacher averages over a sixtieth of the run, at least 20 steps (0.95), at most 125 (0.992)."""
_SHARP = 0.03
"""Teacher temperature of short runs."""
_SMALL = 64
"""Pixels: images and crops up to this side get gentler crops and blur."""


def scale_schedule(now: Chooser, facts: DataFacts) -> None:
    """Batch, steps, and what is a share of the steps."""
    on_cpu = str(now["compute.device"]).startswith("cpu")
    devices = int(now["compute.devices"])
    batch = min((64 if on_cpu else 128) * devices, 2 ** int(math.log2(max(facts.images, 2))))
    parts = int(now["schedule.accumulation"]) * devices
    batch = max(batch // parts, 1) * parts
    kind = "a CPU" if on_cpu else "one GPU"
    now.choose("schedule.batch_size", batch, kind if devices == 1 else f"{devices} × {kind}")
    batch = int(now["schedule.batch_size"])
    passes = 100 if facts.images < 100_000 else 30
    steps = max(500, min(passes * facts.images // batch, 5_000 if on_cpu else 125_000))
    now.choose("schedule.steps", steps, f"about {steps * batch / facts.images:.0f} passes over the images")
    steps = int(now["schedule.steps"])
    now.choose("optim.warmup_steps", steps // 10, "a tenth of the run")


def scale_objective(now: Chooser, facts: DataFacts) -> None:
    """Prototypes and the head before them."""
    shown = images_shown(now)
    fewest = min(facts.images, shown // _SHOWN_PER_PROTOTYPE)
    prototypes = _power_of_two(fewest, _LEAST_PROTOTYPES, _MOST_PROTOTYPES)
    reason = (
        f"{shown:,} images shown of {facts.images:,}: about {_SHOWN_PER_PROTOTYPE} for each, one an image"
    )
    now.choose("objective.out_dim", prototypes, reason)
    width = _width(now)
    hidden = _power_of_two(4 * width, 256, OFFICIAL.objective.hidden_dim)
    reason = f"a head in proportion to a backbone of width {width}; official {OFFICIAL.objective.hidden_dim}"
    now.choose("objective.hidden_dim", hidden, reason)
    narrow = _power_of_two(width / 2, 64, OFFICIAL.objective.bottleneck_dim)
    now.choose("objective.bottleneck_dim", narrow, "half the width; at most the official 256")
    weight = OFFICIAL.objective.koleo_weight
    now.choose("objective.koleo_weight", weight, f"official, also in batches of {now['schedule.batch_size']}")


def scale_teacher(now: Chooser) -> None:
    """How fast the teacher follows, and how sharp it is."""
    steps, short = int(now["schedule.steps"]), is_short(now)
    follows = min(max(steps / _RUN_PER_TEACHER, _FASTEST), _SLOWEST)
    reason = f"the mean of about {follows:.0f} steps of {steps:,}: a slower teacher lags in a short run"
    now.choose("teacher.momentum", round(1 - 1 / follows, 4), reason)
    official = OFFICIAL.teacher
    if short:
        reason = "sharp from the start: softer targets stay near uniform for hundreds of steps"
        now.choose("teacher.temp_start", _SHARP, reason)
        now.choose("teacher.temp", now["teacher.temp_start"], "as at the start")
        now.choose("optim.freeze_last_layer_steps", 0, "every step counts in a short run")
    else:
        now.choose("teacher.temp_start", official.temp_start, "official")
        now.choose("teacher.temp", official.temp, "official")
        now.choose("optim.freeze_last_layer_steps", steps // 100, "a hundredth of the run")
    if now["teacher.temp_start"] == now["teacher.temp"]:
        now.choose("teacher.temp_warmup_steps", 0, "the temperature does not change")
    else:
        now.choose("teacher.temp_warmup_steps", steps * 3 // 10, "three tenths of the run")


def scale_backbone(now: Chooser) -> None:
    """LayerScale, stochastic depth and the learning rates of the layers."""
    short, fresh = is_short(now), not now["model.init"]
    if short and fresh:
        now.choose("optim.optimizer", "muon", "learns faster from random weights (docs/log.md)")
        now.choose("model.init_values", 1.0, "a short run has no time to open a LayerScale of 1e-5")
        now.choose("optim.layer_decay", 1.0, "random weights: early layers have as much to learn")
        now.choose("optim.patch_embed_lr", 1.0, "random weights: so has the patch embedding")
    if short:
        now.choose("optim.weight_decay_end", 0.1, "what our short runs used; official 0.4")
    width = _width(now)
    drop = 0.3 if width >= 1024 and not short and fresh else 0.0
    reason = "official for large backbones" if drop else f"width {width}: nothing to spare in a small network"
    if width >= 1024 and not drop:
        reason = "a short run" if fresh else "weights that are trained already"
    now.choose("model.drop_path_rate", drop, reason)
    batch, rule = int(now["schedule.batch_size"]), str(now["optim.lr_scaling"])
    rate = OFFICIAL.optim.lr
    effective = rate * LEARNING_RATE_RULES[rule](batch)
    now.choose("optim.lr", rate, f"official; {effective:.2g} in steps of {batch} ({rule})")


def scale_crops(now: Chooser, facts: DataFacts) -> None:
    """How many crops, and how much of a small image they show."""
    on_cpu = str(now["compute.device"]).startswith("cpu")
    if on_cpu:
        now.choose("crops.local_number", 4, "half the official 8 takes a third less time on a CPU")
    if facts.short_side <= _SMALL:
        few = f"of an image of {facts.short_side} px the official share would be a few pixels"
        now.choose("crops.global_scale", [0.4, 1.0], few)
        now.choose("crops.local_scale", [0.1, 0.4], few)
    if (side := int(now["crops.global_size"])) <= _SMALL:
        for key in ("crops.blur_global2", "crops.blur_local"):
            now.choose(key, 0.1, f"blur leaves little of a crop of {side} px")


def images_shown(now: Chooser) -> int:
    """Images shown over the whole run."""
    return int(now["schedule.steps"]) * int(now["schedule.batch_size"])


def is_short(now: Chooser) -> bool:
    """Whether the official values, made for far longer runs, would not have their effect."""
    return images_shown(now) < SHORT


def _width(now: Chooser) -> int:
    given = now["model.embed_dim"]
    return int(given or architecture(str(now["model.arch"])).embed_dim)


def _power_of_two(value: float, least: int, most: int) -> int:
    return int(min(most, max(least, 2 ** round(math.log2(max(value, 1))))))
