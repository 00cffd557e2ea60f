"""From training images with label maps to heads: random crops, frozen tokens, a chosen learning rate."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from nexus.data.dense import VOID, DenseSource
from nexus.errors import ConfigError, DataError
from nexus.evals.context import EvalContext
from nexus.evals.dense.bank import Bank, fill, how_many
from nexus.evals.dense.confusion import Counts, confusion
from nexus.evals.dense.label_views import drawing
from nexus.evals.dense.maps import last_layers, layer_maps
from nexus.evals.dense.prediction import labels_at
from nexus.evals.dense.segmentation_config import SegmentationConfig
from nexus.evals.dense.segmentation_heads import LinearHead, NeighborHead, patch_labels, segmentation_loss
from nexus.evals.dense.splitting import held_out_rows
from nexus.evals.dense.training import train_heads
from nexus.evals.dense.views import draw_views, readable

log = logging.getLogger(__name__)

PASSES = 32
ITERATIONS = (500, 40_000)
WARMUP = 1500 / 40_000
LEAST_PATCHES = 16
MOST_HELD_OUT = 200


@dataclass(frozen=True)
class LabelPlan:
    """What was decided for a data set and a backbone."""

    config: SegmentationConfig
    source: DenseSource
    crop: int
    resolution: int
    iterations: int

    @property
    def classes(self) -> int:
        """How many there are."""
        return len(self.source.train.classes)

    @classmethod
    def of(cls, context: EvalContext, config: SegmentationConfig, source: DenseSource) -> "LabelPlan":
        """Fill in what the user left out, and say so."""
        patch = context.backbone.patch_size
        crop = max(1, round((config.crop or min(context.size)) / patch)) * patch
        wanted = config.resolution or max(crop, LEAST_PATCHES * patch)
        resolution = max(wanted, crop)
        if crop == patch and config.batch_size == 1:
            raise ConfigError(
                f"crops of one patch ({patch} pixels) and batch_size=1 give batch norm one patch to look"
                " at; use larger crops or batches"
            )
        passes = PASSES * len(source.train) // config.batch_size
        iterations = config.iterations or min(max(passes, ITERATIONS[0]), ITERATIONS[1])
        log.info(
            "segmentation: %d classes; images with a shorter side of %d pixels, crops and windows of %d; %s "
            "steps",
            *(len(source.train.classes), resolution, crop, f"{iterations:,}"),
        )
        return cls(config, source, crop, resolution, iterations)


@dataclass(frozen=True)
class Predictor:
    """Heads of the same kind, one for each seed, and how they are asked."""

    heads: tuple[nn.Module, ...]
    layers: tuple[int, ...]
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    details: dict[str, Any] = field(default_factory=dict)


def learn_linear(context: EvalContext, plan: LabelPlan, name: str) -> Predictor:
    """Train a linear head for each seed, with the learning rate that is best on held-out training images."""
    config, train = plan.config, plan.source.train
    layers = last_layers(context.depth, 4 if name == "ms" else 1)
    bank = _bank(context, plan, layers)
    rates = tuple(dict.fromkeys(config.learning_rates))
    details: dict[str, Any] = {"iterations": plan.iterations, "views": len(bank), "layers": list(layers)}
    rate = rates[0]
    if len(rates) > 1:
        kept, held = held_out_rows(len(train), config.held_out, config.seed)
        fitted = _fit(context, plan, bank, kept, [config.seed] * len(rates), rates)
        scores = _held_out_scores(context, plan, fitted, layers, held[:MOST_HELD_OUT])
        rate = max(zip(scores, rates, strict=True))[1]
        details["held_out"] = dict(zip(map(str, rates), scores, strict=True))
        log.info("%s: learning rate %g is best on %d held-out training images", name, rate, len(held))
    seeds = list(context.training_seeds(config.seed))
    heads = [_fit(context, plan, bank, range(len(train)), [seed], [rate])[0] for seed in seeds]
    scales, flip = (config.scales, True) if name == "ms" else ((1.0,), False)
    return Predictor(tuple(heads), layers, scales, flip, {**details, "learning_rate": rate})


def remember(context: EvalContext, plan: LabelPlan) -> Predictor:
    """The labelled patches of random crops of the training images, as a head that lets them vote."""
    config, train = plan.config, plan.source.train
    layers = last_layers(context.depth, 1)
    patch = context.backbone.patch_size
    each = (plan.crop // patch) ** 2
    count = max(1, min(len(train) * 64, -(-2 * config.memory // each)))
    draw = drawing(plan.resolution, plan.crop, augment=False)
    views = draw_views(train, range(len(train)), count, draw, config.seed, context.view.workers)
    bank = fill(context, views, layers, count)
    labels = patch_labels(bank.truths, patch, plan.classes).flatten()
    tokens = bank.maps[-1].patches.flatten(2).transpose(1, 2).flatten(0, 1)
    known = (labels != VOID).nonzero().flatten()
    if not len(known):
        raise DataError(f"{train.description}: no patch has a label in half of its pixels; all is void")
    order = torch.randperm(len(known), generator=torch.Generator().manual_seed(config.seed))
    chosen = known[order[: config.memory]]
    head = NeighborHead(
        tokens[chosen], labels[chosen], plan.classes, config.neighbors, config.temperature
    ).to(context.device)
    return Predictor((head.eval(),), layers, details={"memory": len(chosen), "neighbors": head.neighbors})


def _bank(context: EvalContext, plan: LabelPlan, layers: Sequence[int]) -> Bank:
    config, train = plan.config, plan.source.train
    tokens = (plan.crop // context.backbone.patch_size) ** 2
    bytes_each = 4 * (len(layers) * context.backbone.embed_dim * tokens + plan.crop**2)
    wanted = plan.iterations * config.batch_size
    count = how_many(len(train), wanted, config.views, bytes_each)
    draw = drawing(plan.resolution, plan.crop)
    views = draw_views(train, range(len(train)), count, draw, config.seed, context.view.workers)
    return fill(context, views, layers, count)


def _fit(
    context: EvalContext,
    plan: LabelPlan,
    bank: Bank,
    rows: Sequence[int],
    seeds: Sequence[int],
    rates: Sequence[float],
) -> list[LinearHead]:
    """Heads trained on the views of some images."""
    config = plan.config
    width = sum(layer.patches.shape[1] for layer in bank.maps)
    heads = [LinearHead(width, plan.classes, seed).to(context.device) for seed in seeds]
    batches = bank.batches(bank.of(rows), config.batch_size, plan.iterations, seeds[0], context.device)
    train_heads(
        heads,
        rates,
        batches,
        plan.iterations,
        segmentation_loss,
        weight_decay=config.weight_decay,
        warmup=WARMUP,
    )
    return heads


def _held_out_scores(
    context: EvalContext,
    plan: LabelPlan,
    heads: Sequence[nn.Module],
    layers: Sequence[int],
    rows: Sequence[int],
) -> list[float]:
    """mIoU of each head on some of the training images, at one scale."""
    look = partial(layer_maps, context, layers=layers)
    matrices: list[list[torch.Tensor]] = [[] for _ in heads]
    for _, sample in readable(plan.source.train, context.view.workers, rows):
        if isinstance(sample, Exception):
            continue
        truth = torch.from_numpy(sample.truth)
        found = labels_at(
            sample.image,
            (truth.shape[0], truth.shape[1]),
            heads,
            look,
            plan.resolution,
            plan.crop,
            context.view.batch_size,
        )
        for kept, labels in zip(matrices, found, strict=True):
            kept.append(confusion(truth, labels, plan.classes))
    return [Counts.of(kept).miou() if kept else 0.0 for kept in matrices]
