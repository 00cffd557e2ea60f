"""From training images with depth maps to heads: random crops, frozen tokens, a chosen learning rate."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from nexus.data.dense import DenseSample, DenseSource
from nexus.errors import DataError, ImageError
from nexus.evals.context import EvalContext
from nexus.evals.dense.bank import Bank, fill, how_many
from nexus.evals.dense.choosing import train_with_best_rate
from nexus.evals.dense.depth_config import DepthConfig
from nexus.evals.dense.depth_heads import LinearDepthHead
from nexus.evals.dense.depth_losses import depth_loss
from nexus.evals.dense.depth_metrics import EvalCrop, counted_pixels, depth_metrics
from nexus.evals.dense.depth_scene import DepthScene
from nexus.evals.dense.depth_views import crop_size, drawing
from nexus.evals.dense.dpt import DPTHead
from nexus.evals.dense.maps import last_layers, layer_maps, spread_layers
from nexus.evals.dense.testing import judge_predictions
from nexus.evals.dense.training import train_heads
from nexus.evals.dense.views import Size, draw_views, scaled_size, whole

log = logging.getLogger(__name__)

PASSES = 25
ITERATIONS = (500, 38_400)
WARMUP = 12_800 / 38_400
LEAST_PATCHES = 16
USUAL = (0.05, 500.0)
"""Metres between which the median depth of photographs lies."""


@dataclass(frozen=True)
class DepthPlan:
    """What was decided for a data set and a backbone."""

    config: DepthConfig
    source: DenseSource
    resolution: int
    crop: Size
    iterations: int
    max_depth: float
    eval_crop: EvalCrop

    @classmethod
    def of(
        cls, context: EvalContext, config: DepthConfig, source: DenseSource, scene: DepthScene
    ) -> "DepthPlan":
        """Fill in what the user left out, and say so."""
        patch = context.backbone.patch_size
        resolution = config.resolution or max(min(context.size), LEAST_PATCHES * patch)
        resolution = max(1, round(resolution / patch)) * patch
        if not USUAL[0] <= scene.median <= USUAL[1]:
            log.warning(
                "half of the depths are beyond %.3g m; is the unit right? See depth.scale", scene.median
            )
        passes = PASSES * len(source.train) // config.batch_size
        iterations = config.iterations or min(max(passes, ITERATIONS[0]), ITERATIONS[1])
        max_depth = config.max_depth or source.layout.max_depth or scene.limit()
        named: Any = source.layout.eval_crop if config.eval_crop == "auto" else config.eval_crop
        crop = crop_size(_frame(source, resolution), patch)
        log.info(
            "depth: up to %g m, scored part: %s; images with a shorter side of %d pixels, crops of %d × %d; "
            "%s steps",
            *(max_depth, named, resolution, *crop, f"{iterations:,}"),
        )
        return cls(config, source, resolution, crop, iterations, max_depth, named)


def _frame(source: DenseSource, resolution: int) -> Size:
    """Height and width of the first training image that can be read, once it is resized."""
    for row in range(len(source.train)):
        try:
            return scaled_size(source.train.image(row), resolution)
        except ImageError:
            continue
    raise DataError(f"{source.train.description}: no image can be read; repair or remove the files")


@dataclass(frozen=True)
class DepthPredictor:
    """Heads of the same kind, one for each seed, and the layers that they are given."""

    heads: tuple[nn.Module, ...]
    layers: tuple[int, ...]
    details: dict[str, Any] = field(default_factory=dict)


def learn_depth(context: EvalContext, plan: DepthPlan, name: str) -> DepthPredictor:
    """Train a head for each seed, with the learning rate that is best on held-out training images."""
    config = plan.config
    layers = last_layers(context.depth, 1) if name == "linear" else spread_layers(context.depth)
    bank = _bank(context, plan, layers)
    heads, chosen = train_with_best_rate(
        config,
        context.training_seeds(config.seed),
        name,
        len(plan.source.train),
        partial(_fit, context, plan, bank, name),
        partial(_worth, context, plan, layers),
    )
    details = {"iterations": plan.iterations, "views": len(bank), "layers": list(layers), **chosen}
    return DepthPredictor(heads, layers, details)


@torch.no_grad()
def depth_at(
    context: EvalContext, plan: DepthPlan, sample: Any, heads: Sequence[nn.Module], layers: Sequence[int]
) -> list[Float[Tensor, "height width"]]:
    """Metres at the pixels of a sample's truth, for each head, within the limits, on the CPU."""
    pixels = whole(sample.image, plan.resolution)[None]
    sums: list[Tensor] = []
    for mirrored in (False, True) if plan.config.flip else (False,):
        maps = layer_maps(context, pixels.flip(-1) if mirrored else pixels, layers)
        for number, head in enumerate(heads):
            found = F.interpolate(head(maps), size=sample.truth.shape, mode="bilinear", align_corners=False)
            found = found[0, 0].flip(-1) if mirrored else found[0, 0]
            if len(sums) == number:
                sums.append(found)
            else:
                sums[number] = (sums[number] + found) / 2
    return [total.clamp(plan.config.min_depth, plan.max_depth).cpu() for total in sums]


def counted(plan: DepthPlan, truth: Float[Tensor, "height width"]) -> Tensor:
    """Which pixels of a truth are scored."""
    return counted_pixels(truth, plan.eval_crop, plan.config.min_depth, plan.max_depth)


def is_measured(plan: DepthPlan, truth: Float[Tensor, "height width"]) -> bool:
    """Whether there is any."""
    return bool(counted(plan, truth).any())


def errors_of(
    plan: DepthPlan, metres: Float[Tensor, "height width"], truth: Float[Tensor, "height width"]
) -> dict[str, float]:
    """The metrics of a prediction at those pixels."""
    pixels = counted(plan, truth)
    return depth_metrics(metres[pixels], truth[pixels])


def _bank(context: EvalContext, plan: DepthPlan, layers: Sequence[int]) -> Bank:
    config, train = plan.config, plan.source.train
    pixels = plan.crop[0] * plan.crop[1]
    tokens = pixels // context.backbone.patch_size**2
    bytes_each = 4 * (len(layers) * context.backbone.embed_dim * tokens + pixels)
    count = how_many(len(train), plan.iterations * config.batch_size, config.views, bytes_each)
    draw = drawing(plan.resolution, plan.crop)
    views = draw_views(train, range(len(train)), count, draw, config.seed, context.view.workers)
    return fill(context, views, layers, count)


def _fit(
    context: EvalContext,
    plan: DepthPlan,
    bank: Bank,
    name: str,
    rows: Sequence[int],
    seeds: Sequence[int],
    rates: Sequence[float],
) -> list[nn.Module]:
    """Heads trained on the views of some images."""
    config = plan.config
    dim, low, high = bank.maps[0].patches.shape[1], config.min_depth, plan.max_depth
    heads: list[nn.Module] = [
        DPTHead(dim, config.channels, low, seed)
        if name == "dpt"
        else LinearDepthHead(dim, len(bank.maps), low, high, seed)
        for seed in seeds
    ]
    heads = [head.to(context.device) for head in heads]
    train_heads(
        heads,
        rates,
        bank.batches(bank.of(rows), config.batch_size, plan.iterations, seeds[0], context.device),
        plan.iterations,
        partial(_loss, max_depth=high),
        weight_decay=config.weight_decay,
        warmup=WARMUP,
        clip=config.clip,
    )
    return heads


def _loss(output: Tensor, truth: Tensor, max_depth: float) -> Tensor:
    """Of a head's output (batch, 1, h, w) at the resolution of the truth."""
    metres = F.interpolate(output, size=truth.shape[1:], mode="bilinear", align_corners=False)
    return depth_loss(metres[:, 0], truth, max_depth)


def _worth(
    context: EvalContext, plan: DepthPlan, layers: Sequence[int], heads: list[nn.Module], rows: Sequence[int]
) -> list[float]:
    """Mean RMSE of each head on some of the training images, negative."""

    def predict(sample: DenseSample) -> list[Tensor]:
        return depth_at(context, plan, sample, heads, layers)

    tested = judge_predictions(
        context,
        plan.source.train,
        {"": predict},
        partial(errors_of, plan),
        measured=partial(is_measured, plan),
        rows=rows,
    )
    errors = tested.judged[""] or [[] for _ in heads]
    return [-sum(one["RMSE"] for one in each) / len(each) if each else -math.inf for each in errors]
