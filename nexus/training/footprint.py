"""The memory that a step needs: at the very least, and likely; and the refusal where the device has less.

`least_memory` is a lower bound, so that nothing is refused that could run: what it leaves out (attention,
prototypes, the workspace of the libraries) comes on top. It catches slips such as crops of 20,000 px, and
batches of a cluster on one card, before anything is created. `likely_memory` counts what a block keeps for
the backward pass (after Korthikanti et al., arXiv 2205.05198, without dropout); it is an estimate, for plans.
"""

import os

import torch

from nexus.distributed import local_world_size, world_size
from nexus.errors import ConfigError
from nexus.training.config import TrainConfig
from nexus.training.state import vit_config
from nexus.training.summary import parameter_counts

_WEIGHT_COPIES = {"adamw": 5, "muon": 4}
"""Student, gradient, teacher and the optimizer's moments; all float32. Muon has one moment a matrix."""
_FLOAT, _HALF = 4, 2
_KEPT = {"none": 16.0, "selective": 10.0, "full": 1.0}
"""Tables of tokens that a block keeps: what enters its norms (2), the queries, keys and values made of one of
them (1 + 3), their mean and its projection (1), and the feed-forward layer (1 + 4 + 4)."""
_GIB = 1 << 30


def least_memory(config: TrainConfig) -> dict[str, int]:
    """Bytes of one process by what they hold: `weights`, `crops`, `activations`.

    Activations count as one table of tokens for each block, which is what is kept when everything else is
    computed again. Crops are the process's part of one micro-batch, normalised. Weights are whole in every
    process, but for `compute.parallel=fsdp`, which slices them among the processes of a machine.
    """
    return _memory(config, 1.0)


def likely_memory(config: TrainConfig) -> dict[str, int]:
    """The same, with what the blocks are likely to keep for the backward pass."""
    return _memory(config, _KEPT[config.compute.checkpointing])


def _memory(config: TrainConfig, kept: float) -> dict[str, int]:
    """Bytes where each block keeps `kept` tables of tokens."""
    crops = config.crops
    vit = vit_config(config.model, crops.global_size)
    images = config.schedule.batch_size // config.schedule.accumulation // world_size()
    slices = local_world_size() if config.compute.parallel == "fsdp" else 1
    pixels = tokens = 0
    for count, side in ((2, crops.global_size), (crops.local_number, crops.local_size)):
        pixels += images * count * vit.in_chans * side**2
        tokens += images * count * (1 + vit.num_register_tokens + (side // vit.patch_size) ** 2)
    width = _FLOAT if config.compute.precision == "fp32" else _HALF
    return {
        "weights": _WEIGHT_COPIES[config.optim.optimizer] * _FLOAT * parameter_counts(config)[1] // slices,
        "crops": _FLOAT * pixels,
        "activations": round(kept * width * tokens * vit.embed_dim * vit.depth),
    }


def refuse_what_cannot_fit(config: TrainConfig, device: torch.device) -> None:
    """Raise `ConfigError` where `least_memory` is more than the device has; nothing is allocated."""
    available = available_memory(device)
    needed = least_memory(config)
    if available is None or sum(needed.values()) <= available:
        return
    parts = ", ".join(f"{name} {size / _GIB:,.1f}" for name, size in needed.items())
    raise ConfigError(
        f"a step needs {sum(needed.values()) / _GIB:,.0f} GiB at the very least ({parts}), but {device} has "
        f"{available / _GIB:,.0f} GiB: {_cure(config, needed)}"
    )


def _cure(config: TrainConfig, needed: dict[str, int]) -> str:
    """What to change, by what takes most."""
    size = f"crops.global_size={config.crops.global_size}"
    if needed["weights"] == max(needed.values()):
        return f"take a smaller model than {config.model.arch} with {size} and this objective.out_dim"
    batch = config.schedule.batch_size
    return f"lower schedule.batch_size={batch}, raise schedule.accumulation, or make {size} smaller"


def available_memory(device: torch.device) -> int | None:
    """Bytes of the device's memory for this process, or `None` where that is not known.

    The processes of a machine without a GPU share its memory.
    """
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // local_world_size()
    except (AttributeError, OSError, ValueError):
        return None
