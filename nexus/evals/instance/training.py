"""Training the detector, and looking for objects with it."""

import copy
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models.detection.roi_heads import paste_masks_in_image

from nexus.errors import RunError
from nexus.evals.context import EvalContext
from nexus.evals.instance.average_precision import Detections, encode
from nexus.evals.instance.canvas import Canvas, canvas, target
from nexus.evals.instance.config import InstanceConfig
from nexus.evals.instance.detector import Detector, total
from nexus.evals.instance.objects import Annotated
from nexus.evals.instance.scale import Scale
from nexus.schedules import cosine

log = logging.getLogger(__name__)

KEPT_NUMBERS = 1 << 29
"""Patch features kept in memory between passes, at two bytes each: 1 GiB."""
CLIP = 1.0


@dataclass
class Trained:
    """A detector, and the backbone under it: the frozen one, or a trained copy."""

    detector: Detector
    backbone: nn.Module


class _Maps:
    """Patch maps of training images; kept where they fit and the backbone does not change."""

    def __init__(self, context: EvalContext, data: Annotated, config: InstanceConfig) -> None:
        self.context, self.data, self.config = context, data, config
        patch, dim = context.backbone.patch_size, context.backbone.embed_dim
        numbers = 2 * len(data.objects) * config.grid**2 * dim
        self.keep = not config.finetune and numbers <= KEPT_NUMBERS
        self.patch = patch
        self.kept: dict[tuple[int, bool], tuple[Canvas, Tensor] | None] = {}

    def pixels(self, row: int) -> Canvas | None:
        return canvas(self.data.images, row, self.config.grid, self.patch)

    def __call__(self, row: int, mirrored: bool) -> tuple[Canvas, Tensor] | None:
        """The canvas and the map (1, D, rows, cols) of an image; None where it cannot be read."""
        key = (row, mirrored)
        if key not in self.kept:
            shown = self.pixels(row)
            found = None if shown is None else (shown, self._map(shown, mirrored))
            if not self.keep:
                return found
            self.kept[key] = None if found is None else (found[0], found[1].half())
        kept = self.kept[key]
        return None if kept is None else (kept[0], kept[1].float())

    def _map(self, shown: Canvas, mirrored: bool) -> Tensor:
        pixels = mirror(shown) if mirrored else shown.pixels
        return self.context.look(self.context.normalized(pixels[None])).patches


def mirror(shown: Canvas) -> Tensor:
    """The pixels of a canvas with its image, not its padding, turned left to right."""
    width = round(shown.frame[1] * shown.pixels.shape[2] / max(shown.frame))
    pixels = shown.pixels.clone()
    pixels[:, :, :width] = pixels[:, :, :width].flip(2)
    return pixels


def train_detector(context: EvalContext, data: Annotated, config: InstanceConfig, seed: int) -> Trained:
    """Train on images with objects; the same seed gives the same detector.

    Raises `RunError` where the loss is no longer a number.
    """
    with torch.random.fork_rng(devices=[context.device] if context.device.type == "cuda" else []):
        torch.manual_seed(seed)
        scale = Scale.of(config, context.device)
        detector = Detector(context.backbone.embed_dim, len(data.classes), data.has_masks, config, scale)
        detector = detector.to(context.device).train()
        backbone = copy.deepcopy(context.backbone).train() if config.finetune else context.backbone
        _train(context, data, config, Trained(detector, backbone))
    return Trained(detector.eval(), backbone.eval())


def _train(context: EvalContext, data: Annotated, config: InstanceConfig, model: Trained) -> None:
    rows = [row for row, one in enumerate(data.objects) if len(one.trained_on())]
    steps = Scale.of(config, context.device).steps(config, len(rows))
    maps = _Maps(context, data, config)
    optimizer = _optimizer(model, config)
    rates = [group["lr"] for group in optimizer.param_groups]
    warm = max(1, steps // 10)
    decay = cosine(1.0, 0.0, steps)
    for step, batch in enumerate(_batches(rows, config.batch_size, steps)):
        loss = _loss(context, data, config, model, maps, batch)
        if loss is None:
            continue
        if not bool(loss.isfinite()):
            raise RunError(f"the detector's loss is no number at step {step}; lower instance.learning_rate")
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * decay.at(step) * min(1.0, (step + 1) / warm)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], CLIP)
        optimizer.step()
        if (step + 1) % max(1, steps // 10) == 0:
            log.info("detector: step %d of %d, loss %.3f", step + 1, steps, float(loss.detach()))
        if context.progress is not None:
            context.progress(step + 1, steps)


def _loss(
    context: EvalContext,
    data: Annotated,
    config: InstanceConfig,
    model: Trained,
    maps: _Maps,
    batch: list[tuple[int, bool]],
) -> Tensor | None:
    shown, tables, targets = [], [], []
    for row, mirrored in batch:
        if config.finetune:
            one = maps.pixels(row)
            found = None if one is None else (one, mirror(one) if mirrored else one.pixels)
        else:
            found = maps(row, mirrored)
        if found is not None:
            shown.append(found[0])
            tables.append(found[1])
            wanted = target(data.objects[row], found[0], mirrored, data.has_masks)
            targets.append({name: value.to(context.device) for name, value in wanted.items()})
    if not shown:
        return None
    if config.finetune:
        table = _trainable_maps(context, model.backbone, torch.stack(tables))
    else:
        table = torch.cat(tables).to(context.device)
    _, losses = model.detector(table, [one.frame for one in shown], targets)
    return total(losses)


def _trainable_maps(context: EvalContext, backbone: Any, pixels: Tensor) -> Tensor:
    """Patch maps through which gradients flow into the backbone."""
    images = context.normalized(pixels)
    ((patches, _),) = backbone.get_intermediate_layers(images, n=1, return_class_token=True, norm=True)
    rows = images.shape[-2] // backbone.patch_size
    return patches.float().transpose(1, 2).unflatten(2, (rows, -1))


def _optimizer(model: Trained, config: InstanceConfig) -> torch.optim.AdamW:
    groups: list[dict[str, Any]] = [{"params": list(model.detector.parameters()), "lr": config.learning_rate}]
    if config.finetune:
        inside = [p.requires_grad_() for p in model.backbone.parameters()]
        if inside:
            groups.append({"params": inside, "lr": config.learning_rate * config.backbone_rate})
    return torch.optim.AdamW(groups, weight_decay=config.weight_decay)


def _batches(rows: list[int], size: int, steps: int) -> Iterator[list[tuple[int, bool]]]:
    """Rows of each step in shuffled passes, each image mirrored with an even chance."""
    size = min(size, len(rows))
    waiting: list[int] = []
    for _ in range(steps):
        while len(waiting) < size:
            waiting += [rows[i] for i in torch.randperm(len(rows)).tolist()]
        mirrored = (torch.rand(size) < 0.5).tolist()
        yield list(zip(waiting[:size], mirrored, strict=True))
        waiting = waiting[size:]


Seen = tuple[tuple[int, int], Detections]
"""Height and width of an image, and what was found in it."""


def detect(
    context: EvalContext, model: Trained, data: Annotated, config: InstanceConfig
) -> Iterator[Seen | None]:
    """Look for objects in every image, one at a time; None where it cannot be read."""
    for row in range(len(data.objects)):
        shown = canvas(data.images, row, config.grid, context.backbone.patch_size)
        yield None if shown is None else _seen(context, model, shown, config.finetune)


@torch.no_grad()
def _seen(context: EvalContext, model: Trained, shown: Canvas, finetune: bool) -> Seen:
    if finetune:
        table = _trainable_maps(context, model.backbone, shown.pixels[None])
    else:
        table = context.look(context.normalized(shown.pixels[None])).patches
    (found,), _ = model.detector(table, [shown.frame])
    return shown.size, _in_pixels(found, shown)


def _in_pixels(found: dict[str, Tensor], shown: Canvas) -> Detections:
    across, down = shown.scale
    boxes = found["boxes"].float().cpu() / torch.tensor([across, down, across, down])
    masks = None
    if "masks" in found:
        masks = tuple(
            encode((paste_masks_in_image(mask[None], box[None], shown.size)[0, 0] >= 0.5).numpy())
            for mask, box in zip(found["masks"].float().cpu(), boxes, strict=True)
        )
    return Detections(
        boxes.numpy(), found["labels"].cpu().numpy() - 1, found["scores"].float().cpu().numpy(), masks
    )


def best_first(scores: Float[np.ndarray, " found"], least: float) -> list[int]:
    """Rows of detections above a score, best first."""
    return [int(row) for row in np.argsort(-scores, kind="stable") if scores[row] >= least]
