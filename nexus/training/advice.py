"""What to change where a run is too slow or too large, and what the change would bring.

Time is scaled by the operations of a step (`nexus.training.flops`), memory by `likely_memory`; both start
from what was measured. So these are estimates: `nexus plan` with the change measures it.
"""

import re
from dataclasses import dataclass
from typing import Any

import torch

from nexus.config import build, from_dotted, merge
from nexus.models.vision import architecture
from nexus.training.choices import DataFacts, round_to
from nexus.training.config import TrainConfig
from nexus.training.flops import step_flops
from nexus.training.footprint import likely_memory
from nexus.training.rehearsal import Rehearsal, of_one_process
from nexus.training.state import vit_config

SMALLER = {"giant": "large", "large": "base", "base": "small", "small": "tiny"}
_RECOMPUTED = 4 / 3
"""A second forward pass beside forward and backward, which take three times as long as one."""


@dataclass(frozen=True)
class Change:
    """A setting that would make a run faster or smaller, and about what it would then take."""

    overrides: str
    """As typed: `crops.local_number=4`."""
    why: str
    images_per_second: float | None
    memory: int
    """Bytes of one process."""
    fits: bool


def changes(config: TrainConfig, measured: Rehearsal | None, available: int | None) -> list[Change]:
    """The usual ones that apply to this run."""
    found = []
    for given, why in _candidates(config):
        other = build(TrainConfig, merge(config.model_dump(), from_dotted(given)))
        memory = _memory_with(config, other, measured)
        typed = " ".join(f"{key}={value}" for key, value in given.items())
        fits = available is None or memory <= available
        found.append(Change(typed, why, _rate_with(config, other, measured), memory, fits))
    return found


def _candidates(config: TrainConfig) -> list[tuple[dict[str, Any], str]]:
    """Settings and what they are worth, the cheapest for quality first."""
    crops, schedule, compute = config.crops, config.schedule, config.compute
    patch = vit_config(config.model, crops.global_size).patch_size
    found: list[tuple[dict[str, Any], str]] = []
    turns = 2 * schedule.accumulation
    if schedule.batch_size % (turns * compute.devices) == 0 and schedule.batch_size // turns >= 2:
        found.append(({"schedule.accumulation": turns}, "the same step in turns: less memory, same result"))
    if compute.checkpointing != "full":
        found.append(({"compute.checkpointing": "full"}, "less memory for a third more time, same result"))
    if schedule.batch_size >= 16 * compute.devices and schedule.batch_size % (2 * compute.devices) == 0:
        half = schedule.batch_size // 2
        if half % schedule.accumulation == 0:
            found.append(({"schedule.batch_size": half}, "smaller steps, more of them"))
    if crops.local_number >= 4:
        found.append(({"crops.local_number": crops.local_number // 2}, "fewer comparisons an image"))
    smaller = round_to(crops.global_size * 3 / 4, patch)
    if smaller < crops.global_size and smaller >= 2 * patch:
        local = min(crops.local_size, round_to(smaller / 2, patch))
        found.append(({"crops.global_size": smaller, "crops.local_size": local}, "coarser pictures"))
    if config.objective.out_dim >= 2048:
        found.append(({"objective.out_dim": config.objective.out_dim // 4}, "a smaller head"))
    if name := smaller_architecture(config.model.arch):
        shape = {f"model.{key}": None for key in ("depth", "embed_dim", "num_heads")}
        found.append(
            ({"model.arch": name, **{k: v for k, v in shape.items() if _given(config, k)}}, "weaker")
        )
    return found


def _given(config: TrainConfig, key: str) -> bool:
    return getattr(config.model, key.partition(".")[2]) is not None


def smaller_architecture(arch: str) -> str | None:
    """The next smaller one with the same patch: `vit_small_patch14` for `vit_base_patch14`."""
    found = re.match(r"vit_(giant|large|base|small)_", arch)
    if not found:
        return None
    name = arch.replace(f"vit_{found[1]}_", f"vit_{SMALLER[found[1]]}_", 1)
    architecture(name)
    return name


def _rate_with(config: TrainConfig, other: TrainConfig, measured: Rehearsal | None) -> float | None:
    """Images a second after the change: what is no waiting goes with the operations of an image."""
    if measured is None:
        return None
    images = config.schedule.batch_size
    one = measured.step / images
    ratio = step_flops(other) / other.schedule.batch_size / (step_flops(config) / images)
    if other.compute.checkpointing == "full" != config.compute.checkpointing:
        ratio *= _RECOMPUTED
    return 1 / (one * (measured.waiting + (1 - measured.waiting) * ratio))


def _memory_with(config: TrainConfig, other: TrainConfig, measured: Rehearsal | None) -> int:
    """Bytes after the change: the measured peak, its parts scaled as their estimates are."""
    now, then = (likely_memory(of_one_process(each)) for each in (config, other))
    if measured is None:
        return sum(then.values())
    growing, other_growing = (sum(v for k, v in part.items() if k != "weights") for part in (now, then))
    rest = max(measured.memory - now["weights"] - growing, 0)  # the libraries and what estimates leave out
    return rest + then["weights"] + other_growing


def advice(config: TrainConfig, images: int, measured: Rehearsal | None, available: int | None) -> list[str]:
    """What somebody should know before starting this run, in sentences; empty where all is well."""
    found = []
    schedule = config.schedule
    need = measured.memory if measured else sum(likely_memory(of_one_process(config)).values())
    if available is not None and need > available:
        found.append(
            f"does not fit: a step needs about {need / 2**30:,.1f} GiB, {config.compute.device} has "
            f"{available / 2**30:,.1f}. Take a change from the table that fits"
        )
    elif available is not None and config.compute.device.startswith("cuda") and 3 * need < available:
        found.append(
            f"uses {need / available:.0%} of the memory: schedule.batch_size={2 * schedule.batch_size} would "
            "fit, and larger batches make steadier targets"
        )
    shown = schedule.steps * schedule.batch_size
    if shown < 10_000:
        found.append(
            f"{shown:,} images are shown in all: in our runs nothing moved before 10,000 (docs/log.md)"
        )
    if shown < images:
        found.append(f"less than one pass: {images - shown:,} of the images are never shown")
    if images < 1000:
        found.append(
            f"{images:,} images are few to learn from: compare the result with raw pixels and with released "
            "weights (nexus eval)"
        )
    if measured and measured.waiting > 0.3:
        found.append(_faster_data(config, measured))
    threads = torch.get_num_threads()
    if measured and config.compute.device == "cpu" and measured.cores < 0.7 * threads:
        found.append(
            f"the machine is busy: {measured.cores:.1f} of {threads} cores were free for this, so it may be "
            "faster by as much when left alone"
        )
    if schedule.batch_size < 16:
        found.append("steps of fewer than 16 images make poor targets: raise schedule.accumulation")
    return found


def _faster_data(config: TrainConfig, measured: Rehearsal) -> str:
    cure = (
        "fewer or smaller local crops"
        if config.data.engine == "resident"
        else "smaller files (nexus data pack --size), more data.workers, or fewer local crops"
    )
    return f"{measured.waiting:.0%} of a step goes into reading and cropping: {cure} would help"


def fitting_recipe(facts: DataFacts, config: TrainConfig) -> str | None:
    """The recipe that was made for data like these, if there is one."""
    cpu = config.compute.device.startswith("cpu")
    if facts.channels is not None:
        return None
    if facts.one_size and facts.short_side <= 40:
        return "cifar10-cpu" if cpu else "cifar10-gpu"
    if facts.images <= 3_000:
        return "photos-1k"
    if facts.images <= 30_000:
        return "photos-10k"
    return "vitl16-in1k" if not cpu and facts.images >= 1_000_000 else None
