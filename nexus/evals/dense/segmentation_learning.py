"""From training images with label maps to heads: random crops, frozen tokens, a chosen learning rate."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from nexus.data.dense import VOID, DenseSample, DenseSource
from nexus.errors import ConfigError, DataError
from nexus.evals.context import EvalContext
from nexus.evals.dense.bank import Bank, fill, how_many
from nexus.evals.dense.choosing import train_with_best_rate
from nexus.evals.dense.confusion import Counts, confusion
from nexus.evals.dense.label_views import drawing
from nexus.evals.dense.maps import last_layers, layer_maps
from nexus.evals.dense.prediction import labels_at
from nexus.evals.dense.segmentation_config import SegmentationConfig
from nexus.evals.dense.segmentation_heads import LinearHead, NeighborHead, patch_labels, segmentation_loss
from nexus.evals.dense.testing import judge_predictions
from nexus.evals.dense.training import train_heads
from nexus.evals.dense.views import draw_views

log = logging.getLogger(__name__)

PASSES = 32
ITERATIONS = (500, 40_000)
WARMUP = 1500 / 40_000
LEAST_PATCHES = 16


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


def predicted_labels(
    context: EvalContext, plan: LabelPlan, predictor: Predictor, sample: DenseSample
) -> list[Int[Tensor, "height width"]]:
    """The class of each pixel of the truth, for each head."""
    return labels_at(
        sample.image,
        (sample.truth.shape[0], sample.truth.shape[1]),
        predictor.heads,
        partial(layer_maps, context, layers=predictor.layers),
        plan.resolution,
        plan.crop,
        context.view.batch_size,
        predictor.scales,
        predictor.flip,
    )


def judged_labels(
    plan: LabelPlan, predicted: Int[Tensor, "height width"], truth: Int[Tensor, "height width"]
) -> Int[Tensor, "classes classes"]:
    """The confusion matrix of an image."""
    return confusion(truth, predicted, plan.classes)


def learn_linear(context: EvalContext, plan: LabelPlan, name: str) -> Predictor:
    """Train a linear head for each seed, with the learning rate that is best on held-out training images."""
    config = plan.config
    layers = last_layers(context.depth, 4 if name == "ms" else 1)
    bank = _bank(context, plan, layers)
    heads, chosen = train_with_best_rate(
        config,
        context.training_seeds(config.seed),
        name,
        len(plan.source.train),
        partial(_fit, context, plan, bank),
        partial(_worth, context, plan, layers),
    )
    scales, flip = (config.scales, True) if name == "ms" else ((1.0,), False)
    details = {"iterations": plan.iterations, "views": len(bank), "layers": list(layers), **chosen}
    return Predictor(heads, layers, scales, flip, details)


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


def _worth(
    context: EvalContext, plan: LabelPlan, layers: Sequence[int], heads: list[LinearHead], rows: Sequence[int]
) -> list[float]:
    """mIoU of each head on some of the training images, at one scale."""
    asked = Predictor(tuple(heads), tuple(layers))
    tested = judge_predictions(
        context,
        plan.source.train,
        {"": partial(predicted_labels, context, plan, asked)},
        partial(judged_labels, plan),
        rows=rows,
    )
    return [Counts.of(one).miou() if one else 0.0 for one in tested.judged[""] or [[] for _ in heads]]
