"""What a user leaves out, chosen for the data and the machine at hand; every choice says why.

`defaults of TrainConfig` ← **these choices** ← recipe ← command line. The word `auto` as a value means
"leave it out". Nothing is measured here, so the choices are instant and the same on every machine with
the same device.
"""

import math
import os
from dataclasses import dataclass
from typing import Any

import torch

from nexus.config import Tree, build, from_dotted, merge
from nexus.data.channels import ChannelFacts
from nexus.data.crops.config import COLOURLESS
from nexus.models.vision import architecture
from nexus.training.config import TrainConfig
from nexus.training.summary import parameter_counts

RESIDENT_SIDE, RESIDENT_BYTES = 64, 2**30
"""Largest side in pixels, and most memory, of images that are kept on the device."""

GREY_MODES = {"1", "L", "LA", "I", "F", "I;16", "I;16B", "I;16L", "I;16N"}
"""Pillow's modes without colours."""


@dataclass(frozen=True)
class DataFacts:
    """What the choices depend on: how many images, how large (median shorter side, pixels), any labels."""

    images: int
    short_side: int
    labelled: bool = False
    one_size: bool = False
    """All images that were looked at are squares of `short_side`."""
    grey: bool = False
    """None of the images that were looked at has colours."""
    channels: ChannelFacts | None = None
    """Their native channels, where it is these that are trained on."""

    @property
    def resident_bytes(self) -> float:
        """Memory that all images take as bytes, if they have one size; none holds deeper ones."""
        if self.channels and self.channels.deep:
            return math.inf
        return self.images * self.short_side**2 * (self.channels.chans if self.channels else 3)


@dataclass(frozen=True)
class Choice:
    """One setting chosen for the user, and the reason that is printed."""

    key: str
    value: Any
    reason: str

    def __str__(self) -> str:
        return f"{self.key}={self.value}  ({self.reason})"


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
    chooser = _Chooser(drop_auto(given))
    _compute(chooser)
    _channels(chooser, facts)
    _input(chooser, facts)
    _model(chooser, facts)
    _schedule(chooser, facts)
    _objective(chooser, facts)
    _parallel(chooser)
    _bookkeeping(chooser, facts)
    return chooser.tree, chooser.choices


def drop_auto(tree: Tree) -> Tree:
    """The tree without leaves that say `auto`."""
    kept: Tree = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            kept[key] = drop_auto(value)
        elif value != "auto":
            kept[key] = value
    return kept


class _Chooser:
    """The settings so far: what the user gave, then each choice in turn."""

    def __init__(self, given: Tree) -> None:
        self.tree = given
        self.choices: list[Choice] = []
        self._defaults = TrainConfig().model_dump()

    def choose(self, key: str, value: Any, reason: str) -> None:
        """Set `key` unless the user did."""
        if _lookup(self.tree, key) is None:
            self.tree = merge(self.tree, from_dotted({key: value}))
            self.choices.append(Choice(key, value, reason))

    def __getitem__(self, key: str) -> Any:
        value = _lookup(self.tree, key)
        return _lookup(self._defaults, key) if value is None else value


def _lookup(tree: Tree, dotted: str) -> Any:
    value: Any = tree
    for part in dotted.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _compute(now: _Chooser) -> None:
    device, why = best_device()
    now.choose("compute.device", device, why)
    kind = str(now["compute.device"]).partition(":")[0]
    half = has_fast_bf16(kind)
    reason = f"this {kind} has {'fast' if half else 'no fast'} bf16 arithmetic"
    now.choose("compute.precision", "bf16" if half else "fp32", reason)
    now.choose("compute.compile", False, "it gains little on CPUs, and we have not measured it on a GPU")


def _channels(now: _Chooser, facts: DataFacts) -> None:
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


def _input(now: _Chooser, facts: DataFacts) -> None:
    on_gpu = str(now["compute.device"]).startswith("cuda")
    small = facts.one_size and facts.short_side <= RESIDENT_SIDE and facts.resident_bytes <= RESIDENT_BYTES
    if small:
        size = f"{facts.short_side} x {facts.short_side}"
        now.choose("data.engine", "resident", f"all images have {size} px and fit into memory together")
    elif on_gpu:
        now.choose("data.engine", "device", "the CPU cuts the crops, the GPU has time to colour them")
    else:
        now.choose("data.engine", "cpu", "there is no GPU to leave work to")
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
    now = _Chooser(drop_auto(given))
    if _lookup(now.tree, "compute.devices") is not None:
        return int(now["compute.devices"]), "as asked"
    device = str(_lookup(now.tree, "compute.device") or best_device()[0])
    if device != "cuda":
        return 1, f"one process on {device}"
    gpus, batch = torch.cuda.device_count(), _lookup(now.tree, "schedule.batch_size")
    turns = int(now["schedule.accumulation"])
    fitting = [n for n in range(1, gpus + 1) if batch is None or int(batch) % (n * turns) == 0]
    return max(fitting, default=1), f"of {gpus} GPUs, as many as the batch can be split among"


def _parallel(now: _Chooser) -> None:
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


def _model(now: _Chooser, facts: DataFacts) -> None:
    on_cpu = str(now["compute.device"]).startswith("cpu")
    largest = 96 if on_cpu else 224
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


def round_to(value: float, multiple: int) -> int:
    """The multiple of `multiple` nearest to `value`, at least one."""
    return max(1, round(value / multiple)) * multiple


def _schedule(now: _Chooser, facts: DataFacts) -> None:
    on_cpu = str(now["compute.device"]).startswith("cpu")
    devices = int(now["compute.devices"])
    batch = min((32 if on_cpu else 128) * devices, 2 ** int(math.log2(max(facts.images, 2))))
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
    now.choose("optim.freeze_last_layer_steps", steps // 100, "a hundredth of the run")
    now.choose("teacher.temp_warmup_steps", steps * 3 // 10, "three tenths of the run")


def _objective(now: _Chooser, facts: DataFacts) -> None:
    prototypes = int(min(65536, max(1024, 2 ** round(math.log2(max(facts.images, 2))))))
    now.choose("objective.out_dim", prototypes, f"about one prototype an image, {facts.images} images")


def _bookkeeping(now: _Chooser, facts: DataFacts) -> None:
    steps = int(now["schedule.steps"])
    now.choose("log.every", max(1, min(50, steps // 200)), "about two hundred lines")
    now.choose("checkpoint.every", max(1, steps // 20), "twenty in the run")
    if facts.labelled:
        now.choose("online_eval.every", max(1, steps // 10), "there are labels: ten times in the run")
    else:
        now.choose("online_eval.every", 0, "no labels to measure it with")
