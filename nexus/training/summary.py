"""What a run is about to do, in a few lines, before it does it.

::

    run   runs/a
    on    cpu, fp32
    model vit_tiny_patch8 from random weights: 5.4 M parameters, 7.9 M with the heads
    step  32 images; 2 global crops of 96 px and 8 local crops of 40 px each
    steps 500, 16 passes over 1,024 images
    lr    0.004 × sqrt(32/1024) = 0.00071 after 50 steps of warm-up, then a cosine to 1e-06
"""

from pathlib import Path

import torch
from torch import nn

from nexus.models.ssl import DINOv2
from nexus.models.vision import build_backbone
from nexus.training.config import TrainConfig
from nexus.training.optim import OptimConfig
from nexus.training.state import vit_config


def summary(config: TrainConfig, images: int, folder: str | Path) -> list[str]:
    """One line each about folder, device, model, step, length and learning rate."""
    schedule = config.schedule
    passes = schedule.steps * schedule.batch_size / images
    rate, warmup = lr_sentence(config.optim, schedule.batch_size), config.optim.warmup_steps
    return [
        f"run   {folder}",
        f"on    {device_sentence(config)}",
        f"model {model_sentence(config)}",
        f"step  {step_sentence(config)}",
        f"steps {schedule.steps:,}, {_short(passes)} passes over {images:,} images",
        f"lr    {rate} after {warmup:,} steps of warm-up, then a cosine to {config.optim.min_lr:g}",
    ]


def device_sentence(config: TrainConfig) -> str:
    """`cpu, fp32`, or of several processes `2 × CPU (DDP, gloo, fp32), batch 64 = 2 × 32`."""
    compute, batch = config.compute, config.schedule.batch_size
    if compute.devices == 1:
        return f"{compute.device}, {compute.precision}"
    kind = compute.device.partition(":")[0]
    talk = "nccl" if kind == "cuda" else "gloo"
    how = f"{compute.parallel.upper()}, {talk}, {compute.precision}"
    split = f"batch {batch} = {compute.devices} × {batch // compute.devices}"
    return f"{compute.devices} × {kind.upper()} ({how}), {split}"


def lr_sentence(optim: OptimConfig, batch: int) -> str:
    """The nominal learning rate, the rule, and what comes out: `0.004 × sqrt(32/1024) = 0.00071`."""
    rule = {"sqrt_1024": f"sqrt({batch}/1024)", "linear_256": f"{batch}/256", "none": ""}[optim.lr_scaling]
    effective = f"{optim.peak_lr(batch):.2g}"
    return f"{optim.lr:g} × {rule} = {effective}" if rule else f"{optim.lr:g}, whatever the batch"


def step_sentence(config: TrainConfig) -> str:
    """The images of one step and their crops."""
    crops, schedule = config.crops, config.schedule
    text = f"{schedule.batch_size} images"
    if schedule.accumulation > 1:
        text += f" in {schedule.accumulation} micro-batches"
    text += f"; 2 global crops of {crops.global_size} px"
    if crops.local_number:
        text += f" and {crops.local_number} local crops of {crops.local_size} px"
    return text + " each"


def model_sentence(config: TrainConfig) -> str:
    """The architecture, where it starts, and how many parameters it has, alone and with its heads."""
    backbone, student = map(_millions, parameter_counts(config))
    start = config.model.init or "random weights"
    return f"{config.model.arch} from {start}: {backbone} parameters, {student} with the heads"


def parameter_counts(config: TrainConfig) -> tuple[int, int]:
    """Parameters of the backbone, and of everything that is trained; nothing is allocated."""
    vit = vit_config(config.model, config.crops.global_size)
    with torch.device("meta"):
        backbone = _count(build_backbone(vit))
        tiny = vit.model_copy(update={"depth": 1})
        networks = DINOv2.from_config(tiny, config.objective, config.masks).trained_networks()
    heads = sum(_count(network) for name, network in networks.items() if name != "backbone")
    return backbone, backbone + heads


def _count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _millions(count: int) -> str:
    return f"{count / 1e6:.1f} M" if count >= 100_000 else f"{count:,}"


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 else f"{number:.1f}"
