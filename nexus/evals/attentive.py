"""The attentive probe: a classifier that chooses which patches to look at.

One learned query attends to the frozen patch tokens of the last block, with heads of 64 dimensions, then
come a projection of the values and a linear classifier (as in CAPI, arXiv 2502.08769)::

    a[h] = softmax over patches of  q[h] · K[h] x / sqrt(width of a head)
    logits = C concat over h of ( V[h]  sum over patches of  a[h] x )

There is one query, so K[h] can be applied to it instead of to every patch, and V[h] after the sum instead of
before: the same function for a hundredth of the work (the observation of arXiv 2506.10178).

A grid of learning rates is trained in one pass over the same batches; AdamW looks at each number alone, so
each probe becomes what it would be by itself. The best is chosen on a tenth of the training images, trained
again on all of them, and tested once. CAPI's numbers of steps and its augmentations are not reproduced:
images are the central crops of all other tasks here.
"""

import logging
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated

import torch
from jaxtyping import Float, Int
from PIL import Image
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from nexus.config import Config
from nexus.data.datasets import ImageDataset
from nexus.drawing.images import square
from nexus.drawing.tiles import GAP, PAPER, TILE
from nexus.errors import ConfigError, DataError
from nexus.evals.class_pictures import ClassImages
from nexus.evals.context import EvalContext, PatchTable
from nexus.evals.linear import batches
from nexus.evals.metrics import classification, count_classes, labelled, rank_of_truth
from nexus.evals.mistakes import by_logits
from nexus.evals.splits import stratified
from nexus.evals.task import EvalPicture, Task, TaskResult, over_seeds
from nexus.schedules import Schedule

log = logging.getLogger(__name__)

HEAD = 64
STD = 0.02
SHOWN = 8


class AttentiveConfig(Config):
    """The attentive probe."""

    learning_rates: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (1e-4, 3e-4, 1e-3, 3e-3)
    """Peak learning rates of AdamW; the best on held-out images is taken."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Weight decay of AdamW, on everything but biases and the query."""
    batch_size: PositiveInt = 128
    """Images of a step."""
    epochs: PositiveInt = 10
    """Passes over the training images, within `min_steps` and `max_steps`."""
    min_steps: NonNegativeInt = 500
    """Fewest steps, which decides for small data."""
    max_steps: PositiveInt = 12_500
    """Most steps."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of the steps in which the learning rate rises."""
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the training images that the rate is chosen on."""
    memory_gb: PositiveFloat = 8.0
    """Most memory for patch tokens, in float16; more of them are refused."""
    seed: int = 0
    """Seed of the held-out images, the first weights, the order of the images and the bootstrap."""

    def steps(self, images: int) -> int:
        """The number of steps for this many training images."""
        wanted = math.ceil(self.epochs * images / self.batch_size)
        return min(max(wanted, self.min_steps), self.max_steps)


class AttentiveProbe(nn.Module):
    """One probe: a query, keys, values, classes."""

    def __init__(self, dim: int, classes: int, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)

        def drawn(*shape: int) -> nn.Parameter:
            return nn.Parameter(STD * torch.randn(shape, generator=generator))

        heads, width = head_shape(dim)
        self.query = drawn(heads, width)
        self.key, self.value = drawn(heads, width, dim), drawn(heads, width, dim)
        self.value_bias = nn.Parameter(torch.zeros(heads, width))
        self.weight, self.bias = drawn(classes, heads * width), nn.Parameter(torch.zeros(classes))

    def groups(self, rate: float, decay: float) -> list[dict[str, object]]:
        """The parameters for AdamW: those that decay, and the others."""
        plain = [self.query, self.value_bias, self.bias]
        return [
            {"params": [self.key, self.value, self.weight], "lr": rate, "weight_decay": decay, "peak": rate},
            {"params": plain, "lr": rate, "weight_decay": 0.0, "peak": rate},
        ]


def head_shape(dim: int) -> tuple[int, int]:
    """Number and width of the heads: 64 wide, or one of all dimensions where 64 does not divide them."""
    return (dim // HEAD, HEAD) if dim % HEAD == 0 else (1, dim)


def logits_of(
    probes: list[AttentiveProbe], tokens: Float[Tensor, "batch patches dim"]
) -> Float[Tensor, "probes batch classes"]:
    """The logits of several probes on the same tokens."""

    def stacked(name: str) -> Tensor:
        return torch.stack([getattr(probe, name) for probe in probes])

    query, key = stacked("query"), stacked("key")
    asked = torch.einsum("phe,phed->phd", query, key) / math.sqrt(query.shape[-1])
    attention = torch.einsum("bnd,phd->bphn", tokens, asked).softmax(dim=-1)
    seen = torch.einsum("bphn,bnd->pbhd", attention, tokens)
    values = torch.einsum("pbhd,phed->pbhe", seen, stacked("value")) + stacked("value_bias")[:, None]
    return torch.einsum("pbf,pcf->pbc", values.flatten(2), stacked("weight")) + stacked("bias")[:, None]


def attention_of(
    probe: AttentiveProbe, tokens: Float[Tensor, "batch patches dim"]
) -> Float[Tensor, "batch patches"]:
    """Where a probe looks: the mean over its heads, which sums to 1 over the patches."""
    asked = torch.einsum("he,hed->hd", probe.query, probe.key) / math.sqrt(probe.query.shape[-1])
    return torch.einsum("bnd,hd->bhn", tokens, asked).softmax(dim=-1).mean(dim=1)


def train_attentive(
    table: PatchTable,
    rows: Int[Tensor, " samples"],
    rates: tuple[float, ...],
    config: AttentiveConfig,
    classes: int,
    device: torch.device,
) -> list[AttentiveProbe]:
    """Train one probe for each learning rate on `rows`, all of them on the same batches.

    All start from the same draw. The loss is the sum of their cross-entropies.
    """
    labels = table.features.labels
    assert labels is not None
    probes = [AttentiveProbe(table.patches.shape[2], classes, config.seed).to(device) for _ in rates]
    groups = [
        group
        for probe, rate in zip(probes, rates, strict=True)
        for group in probe.groups(rate, config.weight_decay)
    ]
    optimizer = torch.optim.AdamW(groups)
    steps = config.steps(len(rows))
    factor = Schedule(base=1.0, final=0.0, total=steps, warmup=round(config.warmup * steps))
    for step, chosen in enumerate(batches(rows, config.batch_size, steps, config.seed)):
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * factor.at(step)
        logits = logits_of(probes, table.patches[chosen].to(device).float())
        target = labels[chosen].to(device).expand(len(probes), -1)
        loss = F.cross_entropy(logits.flatten(0, 1), target.flatten()) * len(probes)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return probes


def score_all(
    probes: list[AttentiveProbe],
    table: PatchTable,
    rows: Int[Tensor, " samples"],
    config: AttentiveConfig,
    device: torch.device,
) -> Float[Tensor, "probes samples classes"]:
    """The logits of all probes for some rows, on the CPU."""
    with torch.inference_mode():
        parts = [
            logits_of(probes, table.patches[part].to(device).float()).cpu()
            for part in rows.split(config.batch_size)
        ]
    return torch.cat(parts, dim=1)


def attentive_result(
    train: PatchTable,
    test: PatchTable,
    config: AttentiveConfig,
    device: torch.device | str = "cpu",
    images: ClassImages | None = None,
) -> tuple[TaskResult, AttentiveProbe]:
    """Accuracy on `test` of the probe that is best on held-out training images, and that probe.

    Raises `DataError` where nothing can be held out or there is only one class.
    """
    device = torch.device(device)
    train, test = _labelled(train, "training"), _labelled(test, "test")
    labels, truth = train.features.labels, test.features.labels
    assert labels is not None
    assert truth is not None
    classes = count_classes(train.features, test.features)
    fit, held = stratified(labels, config.held_out, config.seed)
    if not len(held) or len(labels.unique()) < 2:
        raise DataError("a probe needs two classes and two images in one of them; label more images")
    rates = config.learning_rates
    probes = train_attentive(train, fit, rates, config, classes, device)
    tried = score_all(probes, train, held, config, device)
    merit = {rate: _merit(logits, labels[held]) for rate, logits in zip(rates, tried, strict=True)}
    best = max(merit, key=lambda rate: merit[rate])
    log.info("learning rate %g, chosen on %d held-out training images", best, len(held))
    everything = torch.arange(len(labels))
    (final,) = train_attentive(train, everything, (best,), config, classes, device)
    logits = score_all([final], test, torch.arange(len(truth)), config, device)[0]
    rank = rank_of_truth(logits, truth)
    details = {
        "top5": float((rank < 5).double().mean()) if classes > 5 else None,
        "learning_rate": best,
        "held_out_top1": merit[best][0],
        "held_out_samples": len(held),
        "steps": config.steps(len(labels)),
        "grid": [{"learning_rate": rate, "held_out_top1": top1} for rate, (top1, _) in merit.items()],
    }
    found = classification(
        (rank < 1).float(),
        train.features,
        test.features,
        details,
        config.seed,
        by_logits(test.features.names, logits, truth),
        images,
    )
    return found, final


def _merit(logits: Float[Tensor, "samples classes"], labels: Int[Tensor, " samples"]) -> tuple[float, float]:
    """Accuracy, and minus the loss, which decides ties."""
    top1 = float((rank_of_truth(logits, labels) < 1).double().mean())
    return top1, -float(F.cross_entropy(logits, labels).nan_to_num(torch.inf))


def _labelled(table: PatchTable, what: str) -> PatchTable:
    features = labelled(table.features, what)
    if features is table.features:
        return table
    assert table.features.labels is not None
    return PatchTable(features, table.patches[table.features.labels >= 0])


def run(context: EvalContext, config: AttentiveConfig) -> TaskResult:
    """The attentive probe on the labelled images of a context, trained with each of its seeds."""
    train, test, split = context.labelled()
    height, width = context.size
    patch = context.backbone.patch_size
    numbers = (height // patch) * (width // patch) * context.backbone.embed_dim
    need = 2 * numbers * (len(train) + len(test)) / 1e9
    if need > config.memory_gb:
        fits = int(config.memory_gb * 1e9 / (4 * numbers))
        raise ConfigError(
            f"the patch tokens of {len(train) + len(test):,} images take {need:,.1f} GB, more than "
            f"attentive.memory_gb={config.memory_gb:g}; use --limit {fits}, a smaller --size, or more memory"
        )
    learned, tested = context.patches(train), context.patches(test)
    images = ClassImages(train, test)
    found = [
        attentive_result(learned, tested, config.model_copy(update={"seed": seed}), context.device, images)
        for seed in context.training_seeds(config.seed)
    ]
    probe = found[0][1]
    whole = over_seeds([result for result, _ in found])

    def pictures() -> Iterator[EvalPicture]:
        yield from whole.pictures()
        yield from _looks(test, tested, probe, context)

    return replace(whole, split=split, pictures=pictures)


TASK = Task("attentive", "attention over patches, then a linear classifier", AttentiveConfig, run)


def _looks(
    test: ImageDataset, table: PatchTable, probe: AttentiveProbe, context: EvalContext
) -> Iterator[EvalPicture]:
    """Where the probe looks, on a few test images."""
    names = {name: row for row, name in enumerate(table.features.names)}
    grid = tuple(side // context.backbone.patch_size for side in context.size)
    tiles: list[Image.Image] = []
    for index in torch.linspace(0, len(test) - 1, min(SHOWN, len(test))).long().tolist():
        row = names.get(test.name(index))
        if row is None:  # unreadable
            continue
        tokens = table.patches[row : row + 1].to(context.device).float()
        with torch.inference_mode():
            weight = attention_of(probe, tokens)[0].view(grid).cpu()
        tiles.append(_seen(test[index].image, weight))
    sheet = Image.new("RGB", (sum(t.width for t in tiles), max(t.height for t in tiles)), PAPER)
    for place, tile in enumerate(tiles):
        sheet.paste(tile, (place * tile.width, 0))
    yield EvalPicture(
        "Attention", "Test images, and below them where the probe looks: bright is much.", sheet
    )


def _seen(image: Image.Image, weight: Float[Tensor, "rows cols"]) -> Image.Image:
    """The image above a copy that is dark where the attention is low."""
    clean = square(image, TILE)
    bright = (255 * (0.12 + 0.88 * weight / weight.max())).to(torch.uint8).numpy()
    mask = Image.fromarray(bright).resize((TILE, TILE), Image.Resampling.BICUBIC)
    both = Image.new("RGB", (TILE + GAP, 2 * TILE + GAP), PAPER)
    both.paste(clean, (0, 0))
    both.paste(Image.composite(clean, Image.new("RGB", clean.size), mask), (0, TILE + GAP))
    return both
