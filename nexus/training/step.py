"""One training step: the heart of the package, in one screen."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nexus.data.batch import Batch
from nexus.distributed import all_gather, world_size
from nexus.models.ssl.base import BaseSSL
from nexus.training.optim import gradient_norms, set_rates, step_where
from nexus.training.parallel import in_step

HALF_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class StepValues:
    """Every scheduled value of one step."""

    lr: float
    last_layer_lr: float
    weight_decay: float
    momentum: float
    teacher_temp: float


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """Mixed precision for `bf16` and `fp16`; nothing for `fp32`."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=HALF_TYPES[precision])


def train_step(
    model: BaseSSL,
    micro_batches: Sequence[Batch],
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    values: StepValues,
    *,
    precision: str,
    clip: float,
    forward: nn.Module | None = None,
) -> dict[str, Tensor]:
    """Forward, backward, clip, update the student, move the teacher.

    `forward` is what `nexus.training.parallel` made of the model; left out, the model itself. The gradient
    is the mean over `micro_batches` and processes. Returns the metrics of the step, over all of them, as
    0-d tensors. Where loss or gradient is not finite in any process nothing changes, the centre included,
    and `finite` is 0. That is decided on the device: the step never waits for a value.
    """
    forward = forward or model
    buffers = list(model.buffers())
    before = [buffer.clone() for buffer in buffers]
    set_rates(
        optimizer,
        lr=values.lr,
        last_layer_lr=values.last_layer_lr,
        weight_decay=values.weight_decay,
    )
    optimizer.zero_grad(set_to_none=True)
    gathered: list[dict[str, Tensor]] = []
    half = autocast(micro_batches[0].global_crops.device, precision)
    with half:
        all_asked = model.ask(micro_batches, teacher_temp=values.teacher_temp)
    for turn, (batch, asked) in enumerate(zip(micro_batches, all_asked, strict=True), start=1):
        with half, in_step(forward, last=turn == len(micro_batches)):
            loss, metrics = forward(batch, teacher_temp=values.teacher_temp, asked=asked)
        scaler.scale(loss / len(micro_batches)).backward()
        gathered.append(metrics)
    scaler.unscale_(optimizer)
    norms = gradient_norms(model.trained_networks(), clip)
    metrics = _over_processes(_mean(gathered))
    finite = torch.isfinite(metrics["loss"]) & torch.stack(list(norms.values())).isfinite().all()
    step_where(finite, optimizer)
    model.update_teacher(values.momentum, where=finite)
    for buffer, value in zip(buffers, before, strict=True):
        buffer.copy_(torch.where(finite, buffer, value))
    scaler.update()
    if scaler.is_enabled():
        metrics["loss_scale"] = scaler.scale(torch.ones_like(metrics["loss"]))
    metrics.update({f"grad_norm/{name}": norm for name, norm in norms.items()})
    metrics["finite"] = finite.float()
    return metrics


def _over_processes(metrics: dict[str, Tensor]) -> dict[str, Tensor]:
    """The means over all processes; and `not_finite_in`, the process with most of those that are not finite.

    Some spread: the centre and KoLeo see all processes. Where all are finite, it is NaN.
    """
    if world_size() == 1:
        return metrics
    table = all_gather(torch.stack(list(metrics.values()))[None])
    bad = (~table.isfinite()).sum(dim=1)
    means = dict(zip(metrics, table.mean(dim=0), strict=True))
    means["not_finite_in"] = torch.where(bad.any(), bad.argmax().to(table.dtype), torch.nan)
    return means


def _mean(gathered: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {key: torch.stack([metrics[key].float() for metrics in gathered]).mean() for key in gathered[0]}
