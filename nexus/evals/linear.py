"""The linear probe: a grid of linear classifiers on frozen features, all trained at once.

The grid is the official one: CLS of the last 1 or 4 blocks, with or without the mean patch of the last one,
times 13 learning rates, 52 probes in all. Probes that read the same input share one matrix product, and each
trains exactly as it would alone (SGD with momentum, cosine to 0, weights from N(0, 0.01), bias 0).

What differs from the official protocol, and why:

* Features are computed once, on the central crop, instead of on fresh random crops at every step: minutes
  instead of hours. `flip` adds the mirrored images. Numbers are a little lower than with random crops.
* The best probe is chosen on a tenth of the *training* images, then trained again on all of them and tested
  once. The official code chooses among the 52 on the images that it reports; that flatters the result.
* Steps follow the size of the data (`LinearConfig.epochs`), 12,500 at most as there.
"""

import logging
import math
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any

import torch
from jaxtyping import Float, Int
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from nexus.config import Config
from nexus.errors import DataError
from nexus.evals.class_pictures import ClassImages
from nexus.evals.context import EvalContext
from nexus.evals.metrics import classification, count_classes, labelled, rank_of_truth
from nexus.evals.mistakes import by_logits
from nexus.evals.results import entry
from nexus.evals.splits import stratified
from nexus.evals.task import Task, TaskResult, over_seeds
from nexus.features import Features
from nexus.schedules import cosine

log = logging.getLogger(__name__)

OFFICIAL_RATES = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1)
INIT_STD = 0.01


class LinearConfig(Config):
    """The linear probe."""

    n_last_blocks: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (1, 4)
    """Blocks whose CLS tokens are joined; clipped to the depth of the backbone."""
    avgpool: Annotated[tuple[bool, ...], Field(min_length=1)] = (False, True)
    """Whether the mean patch of the last block is joined to them."""
    learning_rates: Annotated[tuple[float, ...], Field(min_length=1)] = OFFICIAL_RATES
    """Learning rates at batch 256; scaled by batch_size / 256."""
    batch_size: PositiveInt = 128
    """Images of a step."""
    epochs: PositiveInt = 10
    """Passes over the training images, within `min_steps` and `max_steps`."""
    min_steps: NonNegativeInt = 1000
    """Fewest steps, which decides for small data."""
    max_steps: PositiveInt = 12_500
    """Most steps: those of the official protocol."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum of SGD."""
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the training images that the probe is chosen on."""
    flip: bool = False
    """Whether mirrored training images are learned from too."""
    sizes: tuple[PositiveInt, ...] = ()
    """Sides of the images to evaluate at, such as [224, 518], each with a choice of its own; the first is the
    headline. Empty for the size of the evaluation."""
    seed: int = 0
    """Seed of the held-out images, the first weights, the order of the images and the bootstrap."""

    def steps(self, images: int) -> int:
        """The number of steps for this many training images."""
        wanted = math.ceil(self.epochs * images / self.batch_size)
        return min(max(wanted, self.min_steps), self.max_steps)


@dataclass(frozen=True)
class Setting:
    """One probe of the grid."""

    n_last_blocks: int
    avgpool: bool
    learning_rate: float
    """As in the configuration, at batch 256."""

    def __str__(self) -> str:
        blocks = f"CLS of the last {self.n_last_blocks} blocks" if self.n_last_blocks > 1 else "CLS"
        return f"{blocks}{' and mean patch' if self.avgpool else ''}, learning rate {self.learning_rate:g}"


@dataclass(frozen=True)
class Probes:
    """Linear classifiers that read the same input."""

    weight: Float[Tensor, "probes classes dim"]
    bias: Float[Tensor, "probes classes"]

    def __call__(self, inputs: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch probes classes"]:
        """The logits of every probe, in one matrix product."""
        logits = F.linear(inputs, self.weight.flatten(0, 1), self.bias.flatten())
        return logits.unflatten(1, self.bias.shape)


def probe_inputs(
    features: Features, rows: Int[Tensor, " batch"], n_last_blocks: int, avgpool: bool
) -> Float[Tensor, "batch width"]:
    """CLS of the last blocks in depth order, then the mean patch of the last: the official feature."""
    cls = features.layer_cls[rows, -n_last_blocks:].flatten(1)
    return torch.cat([cls, features.mean_patch[rows]], dim=1) if avgpool else cls


def first_probes(count: int, classes: int, width: int, seed: int) -> Probes:
    """Weights from N(0, 0.01), bias 0. All start from the same draw, so only the rates differ."""
    generator = torch.Generator().manual_seed(seed)
    weight = INIT_STD * torch.randn(classes, width, generator=generator)
    return Probes(weight.repeat(count, 1, 1), torch.zeros(count, classes))


def batches(rows: Int[Tensor, " samples"], size: int, steps: int, seed: int) -> list[Int[Tensor, " batch"]]:
    """The rows of each step: shuffled passes, one after the other, cut into equal batches."""
    generator = torch.Generator().manual_seed(seed)
    size = min(size, len(rows))
    passes = math.ceil(steps * size / len(rows))
    order = torch.cat([torch.randperm(len(rows), generator=generator) for _ in range(passes)])
    return list(rows[order[: steps * size]].split(size))


def train_probes(
    tables: tuple[Features, ...],
    rows: Int[Tensor, " samples"],
    n_last_blocks: int,
    avgpool: bool,
    learning_rates: tuple[float, ...],
    config: LinearConfig,
    classes: int,
    device: torch.device,
) -> Probes:
    """Train one probe per learning rate on `rows` of the features; `tables[1:]` are other views of them.

    The loss is the sum of the probes' cross-entropies, so each gets the gradient it would get alone; the
    rate of a probe is `learning_rate * batch_size / 256`, times a cosine from 1 to 0.
    """
    width = probe_inputs(tables[0], rows[:1], n_last_blocks, avgpool).shape[1]
    first = first_probes(len(learning_rates), classes, width, config.seed)
    probes = Probes(first.weight.to(device), first.bias.to(device))
    speed = tuple(torch.zeros_like(value) for value in (probes.weight, probes.bias))
    rates = torch.tensor(learning_rates, device=device) * (config.batch_size / 256)
    steps = config.steps(len(rows) * len(tables))
    decay = cosine(1.0, 0.0, steps)
    every = torch.cat([rows + view * len(tables[0]) for view in range(len(tables))])
    for step, chosen in enumerate(batches(every, config.batch_size, steps, config.seed)):
        inputs, labels = _gather(tables, chosen, n_last_blocks, avgpool, device)
        gradients = _gradients(probes, inputs, labels)
        for value, gradient, momentum in zip((probes.weight, probes.bias), gradients, speed, strict=True):
            momentum.mul_(config.momentum).add_(gradient)
            shape = (-1,) + (1,) * (value.ndim - 1)
            value.sub_(momentum * (rates * decay.at(step)).view(shape))
    return probes


def evaluate_linear(
    train: Features,
    test: Features,
    config: LinearConfig | None = None,
    *,
    flipped: Features | None = None,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """Accuracy on `test` of the probe that is best on held-out training images; shares are in 0..1.

    `flipped` are the features of the mirrored training images, row for row. Images without a label are left
    out. The result has the chosen `setting`, its `held_out_top1`, and the held-out accuracy of the whole
    `grid`. Raises `DataError` where nothing can be held out or there is only one class.
    """
    return entry(linear_result(train, test, config or LinearConfig(), flipped=flipped, device=device))


def run(context: EvalContext, config: LinearConfig) -> TaskResult:
    """The linear probe on the labelled images of a context, trained with each of its seeds, at each size."""
    if not config.sizes:
        return _at_one_size(context, config)
    if context.is_baseline:  # always 32 × 32
        found = dict.fromkeys(config.sizes, _at_one_size(context, config))
    else:
        found = {size: _at_one_size(context.at_size(size), config) for size in config.sizes}
    first, *others = found
    return replace(found[first], parts={f"{size}px": found[size] for size in others})


def _at_one_size(context: EvalContext, config: LinearConfig) -> TaskResult:
    train, test, split = context.labelled()
    layers = max(config.n_last_blocks)
    learned, tested = (context.features(part, layers=layers) for part in (train, test))
    mirror = context.features(train, layers=layers, flip=True) if config.flip else None
    results = [
        linear_result(
            learned,
            tested,
            config.model_copy(update={"seed": seed}),
            flipped=mirror,
            device=context.device,
            images=ClassImages(train, test),
        )
        for seed in context.training_seeds(config.seed)
    ]
    return replace(over_seeds(results), split=split)


TASK = Task(
    "linear",
    "the best of a grid of linear probes",
    LinearConfig,
    run,
    on_labelled=True,
    layers=lambda config: max(config.n_last_blocks),
)


@dataclass(frozen=True)
class ChosenProbe:
    """The best probe of the grid, trained again on all training images."""

    probes: Probes
    """One."""
    setting: Setting
    held_out_top1: float
    held_out_samples: int
    steps: int
    grid: dict[Setting, float]
    """Held-out top-1 of every setting."""

    def scores(self, features: Features, device: torch.device) -> Float[Tensor, "samples classes"]:
        """The logits of all rows, on the CPU."""
        rows = torch.arange(len(features))
        choice = (self.setting.n_last_blocks, self.setting.avgpool)
        parts = [probe_inputs(features, part, *choice).to(device) for part in rows.split(4096)]
        return torch.cat([self.probes(inputs)[:, 0].cpu() for inputs in parts])


def choose_probe(
    tables: tuple[Features, ...], config: LinearConfig, classes: int, device: torch.device
) -> ChosenProbe:
    """Train the grid on labelled features, choose on held-out images, and train the best on all of them.

    `tables[1:]` are other views of the same images, row for row.
    """
    labels = tables[0].labels
    assert labels is not None
    fit, held = stratified(labels, config.held_out, config.seed)
    if not len(held) or len(labels.unique()) < 2:
        raise DataError("a linear probe needs two classes and two images in one of them; label more images")
    grid = _grid_accuracy(tables, fit, held, config, classes, device)
    best, (accuracy, _) = max(grid.items(), key=lambda item: item[1])
    log.info("chosen on %d held-out training images: %s", len(held), best)
    everything = torch.arange(len(labels))
    choice = (best.n_last_blocks, best.avgpool)
    probes = train_probes(tables, everything, *choice, (best.learning_rate,), config, classes, device)
    steps = config.steps(len(labels) * len(tables))
    shares = {setting: top1 for setting, (top1, _) in grid.items()}
    return ChosenProbe(probes, best, accuracy, len(held), steps, shares)


def linear_result(
    train: Features,
    test: Features,
    config: LinearConfig,
    *,
    flipped: Features | None = None,
    device: torch.device | str = "cpu",
    images: ClassImages | None = None,
) -> TaskResult:
    """What `evaluate_linear` says, before it is made into an entry; with pictures of `images`."""
    device = torch.device(device)
    assert flipped is None or flipped.names == train.names
    tables = tuple(labelled(table, "training") for table in (train, flipped) if table is not None)
    train, test = tables[0], labelled(test, "test")
    assert test.labels is not None
    classes = count_classes(train, test)
    chosen = choose_probe(tables, config, classes, device)
    scores = chosen.scores(test, device)
    rank = rank_of_truth(scores, test.labels)
    details = {
        "top5": float((rank < 5).double().mean()) if classes > 5 else None,
        "size": test.size,
        "setting": asdict(chosen.setting),
        "held_out_top1": chosen.held_out_top1,
        "held_out_samples": chosen.held_out_samples,
        "steps": chosen.steps,
        "grid": [{**asdict(setting), "held_out_top1": top1} for setting, top1 in chosen.grid.items()],
    }
    guesses = by_logits(test.names, scores, test.labels)
    return classification((rank < 1).float(), train, test, details, config.seed, guesses, images)


def _grid_accuracy(
    tables: tuple[Features, ...],
    fit: Tensor,
    held: Tensor,
    config: LinearConfig,
    classes: int,
    device: torch.device,
) -> dict[Setting, tuple[float, float]]:
    """Accuracy and minus the loss of every setting on the held-out rows; the loss decides ties."""
    grid = {}
    depth = tables[0].layer_cls.shape[1]
    for n_last_blocks in sorted({min(n, depth) for n in config.n_last_blocks}):
        for avgpool in config.avgpool:
            choice = (n_last_blocks, avgpool)
            probes = train_probes(tables, fit, *choice, config.learning_rates, config, classes, device)
            rank, loss = _ranks(probes, tables[0], held, *choice, device)
            for probe, rate in enumerate(config.learning_rates):
                top1 = float((rank[probe] < 1).double().mean())
                grid[Setting(*choice, rate)] = (top1, -float(loss[probe].nan_to_num(torch.inf)))
    return grid


def _gather(
    tables: tuple[Features, ...],
    chosen: Int[Tensor, " batch"],
    n_last_blocks: int,
    avgpool: bool,
    device: torch.device,
) -> tuple[Float[Tensor, "batch width"], Int[Tensor, " batch"]]:
    """Inputs and labels of rows counted through all tables; views of an image are `len(table)` apart."""
    inputs, labels = [], []
    for view, table in enumerate(tables):
        assert table.labels is not None
        rows = chosen[chosen // len(table) == view] - view * len(table)
        inputs.append(probe_inputs(table, rows, n_last_blocks, avgpool))
        labels.append(table.labels[rows])
    return torch.cat(inputs).to(device), torch.cat(labels).to(device)


def _gradients(
    probes: Probes, inputs: Float[Tensor, "batch width"], labels: Int[Tensor, " batch"]
) -> tuple[Float[Tensor, "probes classes width"], Float[Tensor, "probes classes"]]:
    """Gradients of the summed mean cross-entropies: (softmax - one-hot) / batch, times the inputs."""
    error = probes(inputs).softmax(dim=2)
    error[torch.arange(len(labels), device=labels.device), :, labels] -= 1
    error /= len(labels)
    weight = error.flatten(1).T @ inputs
    return weight.unflatten(0, error.shape[1:]), error.sum(dim=0)


def _ranks(
    probes: Probes,
    features: Features,
    rows: Int[Tensor, " samples"],
    n_last_blocks: int,
    avgpool: bool,
    device: torch.device,
) -> tuple[Int[Tensor, "probes samples"], Float[Tensor, " probes"]]:
    """For every probe and row, how many classes come before the true one; and the mean loss."""
    ranks, losses = [], []
    for part in rows.split(4096):
        inputs, labels = _gather((features,), part, n_last_blocks, avgpool, device)
        logits = probes(inputs)
        each = [rank_of_truth(logits[:, probe], labels) for probe in range(logits.shape[1])]
        ranks.append(torch.stack(each).cpu())
        target = labels[:, None].expand(logits.shape[:2])
        losses.append(F.cross_entropy(logits.transpose(1, 2), target, reduction="none").sum(0).cpu())
    return torch.cat(ranks, dim=1), torch.stack(losses).sum(0) / len(rows)
