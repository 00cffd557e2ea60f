"""What a user leaves out, chosen for the data and the machine at hand; every choice says why.

`defaults of TrainConfig` ← **these choices** ← recipe ← command line. The word `auto` as a value means
"leave it out". Nothing is measured here, so the choices are instant and the same on every machine with
the same device.
"""

import math
import os

import torch

from nexus.config import Tree, build, merge
from nexus.data.crops.config import COLOURLESS
from nexus.data.crops.engines import why_not_native
from nexus.models.vision import architecture
from nexus.training.choices import Choice, Chooser, DataFacts, drop_auto, lookup, round_to
from nexus.training.config import TrainConfig
from nexus.training.flops import probe_flops, step_flops
from nexus.training.scaling import scale_backbone, scale_crops, scale_objective, scale_schedule, scale_teacher
from nexus.training.summary import parameter_counts

RESIDENT_SIDE, RESIDENT_BYTES = 64, 2**30
"""Largest side in pixels, and most memory, of images that are kept on the device."""

GREY_MODES = {"1", "L", "LA", "I", "F", "I;16", "I;16B", "I;16L", "I;16N"}
"""Pillow's modes without colours."""


def best_device() -> tuple[str, str]:
    """The fastest device of this machine, and why."""
    if torch.cuda.is_available():
        return "cuda", torch.cuda.get_device_name()
    if torch.backends.mps.is_available():
        return "mps", "Apple GPU"
    return "cpu", "no GPU found"


def has_fast_bf16(kind: str) -> bool:
    """Whether bf16 matrix products are faster than fp32 ones on a device of this kind."""
    if kind == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    if kind == "cpu" and hasattr(torch.cpu, "get_capabilities"):
        able = torch.cpu.get_capabilities()
        return bool(able.get("avx512_bf16") or able.get("amx_bf16"))
    return False


def automatic(given: Tree, facts: DataFacts) -> tuple[Tree, list[Choice]]:
    """Complete the user's settings: the merged tree, and the choices that were made."""
    chooser = Chooser(drop_auto(given))
    _compute(chooser)
    _channels(chooser, facts)
    _input(chooser, facts)
    _model(chooser, facts)
    scale_schedule(chooser, facts)
    scale_objective(chooser, facts)
    scale_teacher(chooser)
    scale_backbone(chooser)
    scale_crops(chooser, facts)
    _parallel(chooser)
    _bookkeeping(chooser, facts)
    _health(chooser, facts)
    return chooser.tree, chooser.choices


def _compute(now: Chooser) -> None:
    device, why = best_device()
    now.choose("compute.device", device, why)
    kind = str(now["compute.device"]).partition(":")[0]
    half = has_fast_bf16(kind)
    reason = f"this {kind} has {'fast' if half else 'no fast'} bf16 arithmetic"
    now.choose("compute.precision", "bf16" if half else "fp32", reason)
    now.choose("compute.compile", False, "it gains little on CPUs, and we have not measured it on a GPU")


def _channels(now: Chooser, facts: DataFacts) -> None:
    found = facts.channels
    if found is None:
        return
    kinds, stats = " and ".join(found.kinds), found.stats
    now.choose(
        "model.in_chans",
        found.chans,
        f"the images have {found.chans} channel{'s' * (found.chans > 1)} of {kinds}",
    )
    if found.value_range is not None:
        low, high = found.value_range
        reason = f"values of {kinds} become 0..1 by this; measured on {stats.images} images"
        now.choose("data.value_range", [low, high], reason)
    if found.deep:
        now.choose("data.floats", True, f"{kinds} do not fit into 8 bits")
    reason = f"measured on {stats.images} of {facts.images} images"
    now.choose("data.mean", list(stats.mean), reason)
    now.choose("data.std", list(stats.std), reason)


def _input(now: Chooser, facts: DataFacts) -> None:
    on_gpu = str(now["compute.device"]).startswith("cuda")
    small = facts.one_size and facts.short_side <= RESIDENT_SIDE and facts.resident_bytes <= RESIDENT_BYTES
    if small:
        size = f"{facts.short_side} x {facts.short_side}"
        now.choose("data.engine", "resident", f"all images have {size} px and fit into memory together")
    elif on_gpu:
        now.choose("data.engine", "device", "the CPU cuts the crops, the GPU has time to colour them")
    else:
        now.choose("data.engine", "cpu", "there is no GPU to leave work to")
    if now["data.engine"] != "resident":
        obstacle = why_not_native()
        slower = f'{obstacle}; crops would take less time with pip install "nexus[native]"'
        reason = slower if obstacle else "compiled loops make crops in less time"
        now.choose("data.native", obstacle is None, reason)
    workers = min(os.cpu_count() or 1, 16) if on_gpu and now["data.engine"] != "resident" else 0
    reason = "one for each core" if workers else "the CPU is busy training; cropping takes turns with it"
    if now["data.engine"] == "resident":
        reason = "the images are read once, before training"
    now.choose("data.workers", workers, reason)
    chans = int(now["model.in_chans"])
    if facts.grey or chans != 3:
        why = "the images are grey" if facts.grey else f"{chans} channels are not red, green, blue"
        for name, value in COLOURLESS.items():
            now.choose(f"crops.{name}", value, why)


def several_devices(given: Tree) -> tuple[int, str]:
    """How many devices to train on, and why: all GPUs among which the batch can be split, or one CPU."""
    now = Chooser(drop_auto(given))
    if lookup(now.tree, "compute.devices") is not None:
        return int(now["compute.devices"]), "as asked"
    device = str(lookup(now.tree, "compute.device") or best_device()[0])
    if device != "cuda":
        return 1, f"one process on {device}"
    gpus, batch = torch.cuda.device_count(), lookup(now.tree, "schedule.batch_size")
    turns = int(now["schedule.accumulation"])
    fitting = [n for n in range(1, gpus + 1) if batch is None or int(batch) % (n * turns) == 0]
    return max(fitting, default=1), f"of {gpus} GPUs, as many as the batch can be split among"


def _parallel(now: Chooser) -> None:
    """One copy for each process as long as it fits: that is simpler, and less has to travel."""
    if int(now["compute.devices"]) < 2:
        return
    config = build(TrainConfig, now.tree)
    _, student = parameter_counts(config)
    need, have = _BYTES_OF_A_PARAMETER * student, _memory(config.compute.device)
    fits = config.compute.precision == "fp16" or need <= _SHARE_OF_MEMORY * have
    reason = f"weights, gradients and AdamW take {need / 1e9:.1f} of {have / 1e9:.0f} GB"
    now.choose("compute.parallel", "ddp" if fits else "fsdp", reason)


_BYTES_OF_A_PARAMETER = 20
"""In float32: student, gradient, AdamW's two moments, teacher."""
_SHARE_OF_MEMORY = 0.4
"""The rest is for activations."""


def _memory(device: str) -> float:
    """Bytes of a device, or of this machine."""
    if device.startswith("cuda") and torch.cuda.is_available():
        return float(torch.cuda.get_device_properties(0).total_memory)
    return (
        float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
        if hasattr(os, "sysconf")
        else math.inf
    )


def _model(now: Chooser, facts: DataFacts) -> None:
    on_cpu = str(now["compute.device"]).startswith("cpu")
    largest = 64 if on_cpu else 224
    side = max(16, min(facts.short_side, largest))
    patch = 4 if side <= 40 else 8 if side <= 112 else 14
    size = "tiny" if on_cpu else "small"
    now.choose(
        "model.arch",
        f"vit_{size}_patch{patch}",
        f"{'a CPU' if on_cpu else 'a GPU'}, images of about {facts.short_side} px",
    )
    patch = architecture(str(now["model.arch"])).patch_size
    crop = round_to(side, patch)
    now.choose("crops.global_size", crop, f"median short side {facts.short_side} px, patch {patch}")
    local = round_to(int(now["crops.global_size"]) * 3 / 7, patch)
    now.choose("crops.local_size", local, f"3/7 of the global crop, a multiple of {patch}")


def _bookkeeping(now: Chooser, facts: DataFacts) -> None:
    steps = int(now["schedule.steps"])
    now.choose("log.every", max(1, min(50, steps // 200)), "about two hundred lines")
    now.choose("checkpoint.every", max(1, steps // 20), "twenty in the run")
    if facts.labelled:
        now.choose("online_eval.every", max(1, steps // 10), "there are labels: ten times in the run")
    else:
        now.choose("online_eval.every", 0, "no labels to measure it with")


_HEALTH_SHARE = 0.02
"""Share of the run's operations that may go into looks at the probe."""


def _health(now: Chooser, facts: DataFacts) -> None:
    """As often as the share allows, at logged steps; never where a run is too short for three looks."""
    config = build(TrainConfig, merge(now.tree, {"schedule": {"accumulation": 1}, "compute": {"devices": 1}}))
    images = min(config.health.images, facts.images)
    look, steps, line = (
        probe_flops(config, images) / step_flops(config),
        config.schedule.steps,
        config.log.every,
    )
    left = _HEALTH_SHARE * steps - 2 * look  # after the first and the last look
    every = math.ceil(look * steps / left / line) * line if left > 0 else steps
    share = (steps // every + 2) * look / steps
    if every > steps // 2:
        now.choose("health.every", 0, "looks at features would take more than 2 % of so short a run")
    else:
        now.choose("health.every", every, f"looks at {images} images, {share:.1%} of the run's operations")
