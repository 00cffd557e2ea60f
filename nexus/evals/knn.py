"""k-NN on frozen CLS features: the evaluation without anything to train.

As the official code does it (Wu et al., arXiv 1805.01978; Caron et al., arXiv 2104.14294)::

    s = cosine(query, bank);  keep the K = max(k) most similar
    w = softmax(s / 0.07)                      over all K neighbours
    score[k, class] = sum of w over the first k neighbours of that class

Two differences, both where the official result depends on chance: of equal scores the lower class wins, and
a class without a single vote is not counted as a top-5 guess.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
from jaxtyping import Float, Int
from pydantic import Field, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from nexus.config import Config
from nexus.data.neighbors import nearest_rows
from nexus.evals.bootstrap import percentile_interval
from nexus.evals.class_pictures import ClassImages, Neighbor, by_name, draw_classes
from nexus.evals.context import EvalContext
from nexus.evals.metrics import class_names, classification, count_classes, labelled, rank_of_truth
from nexus.evals.mistakes import Guesses, by_votes
from nexus.evals.results import entry
from nexus.evals.task import RESAMPLES, EvalPicture, Task, TaskResult
from nexus.features import Features

log = logging.getLogger(__name__)

HEADLINE_K = 20
"""The k of the headline, fixed beforehand: the best of several k would be chosen on the test set."""
CHUNK_NUMBERS = 1 << 23
"""Neighbours, or scores of classes, held at once: 32 MiB of each in float32."""


class KNNConfig(Config):
    """The k-NN evaluation."""

    k: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (10, 20, 100, 200)
    """Numbers of neighbours; all are reported, and 20 (or the nearest to it) is the headline."""
    temperature: Annotated[float, Field(gt=0)] = 0.07
    """Softmax temperature of the votes."""
    n_per_class: PositiveInt | None = None
    """Few-shot: this many training images of each class; null for all."""
    few_shot: tuple[PositiveInt, ...] = ()
    """Few-shot besides: a row for each of these numbers of training images of each class, such as [1, 5]."""
    tries: PositiveInt = 5
    """Few-shot: different draws that the accuracy is averaged over."""
    seed: int = 0
    """Seed of the few-shot draws and of the bootstrap."""


def nearest(
    bank: Float[Tensor, "samples dim"],
    queries: Float[Tensor, "queries dim"],
    k: int,
    chunk: int | None = None,
) -> tuple[Float[Tensor, "queries neighbors"], Int[Tensor, "queries neighbors"]]:
    """Cosine similarity and row of the `k` nearest of `bank`, nearest first, `chunk` queries at a time.

    Left out, as many as suit the device.
    """
    return nearest_rows(F.normalize(bank, dim=1), F.normalize(queries, dim=1), k, chunk=chunk)


def knn_scores(
    bank: Float[Tensor, "samples dim"],
    bank_labels: Int[Tensor, " samples"],
    queries: Float[Tensor, "queries dim"],
    classes: int,
    k: Sequence[int] = (10, 20, 100, 200),
    temperature: float = 0.07,
) -> dict[int, Float[Tensor, "queries classes"]]:
    """The class scores for each `k`; those larger than the bank become its size."""
    sizes = _clip(k, len(bank))
    similarity, index = nearest(bank, queries, sizes[-1])
    weights = (similarity / temperature).softmax(dim=1)
    labels = bank_labels[index]
    scores = {}
    for size in sizes:
        empty = weights.new_zeros(len(queries), classes)
        scores[size] = empty.scatter_add(1, labels[:, :size], weights[:, :size])
    return scores


def evaluate_knn(
    train: Features,
    test: Features,
    config: KNNConfig | None = None,
    *,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """Accuracy of k-NN voting from `train` on `test`; shares are in 0..1.

    `top1` is that of `headline_k` (20, or the k nearest to it) with its 95 % bootstrap `interval`; `k` has
    top-1 and top-5 for every k (`top5` is null with five classes or fewer). Images without a label are left
    out. Few-shot (`n_per_class`) averages over `tries` draws and adds `std`, that of the headline over them.
    """
    return entry(knn_result(train, test, config or KNNConfig(), device))


def run(context: EvalContext, config: KNNConfig) -> TaskResult:
    """k-NN on the labelled images of a context."""
    train, test, split = context.labelled()
    features = context.features(train), context.features(test)
    few = {
        f"{shots}-shot": knn_result(*features, _shots(config, shots), context.device)
        for shots in config.few_shot
    }
    found = knn_result(*features, config, context.device, ClassImages(train, test))
    return replace(found, split=split, parts=few)


def _shots(config: KNNConfig, shots: int) -> KNNConfig:
    return config.model_copy(update={"n_per_class": shots, "few_shot": ()})


TASK = Task("knn", "k-NN on CLS, nothing is trained", KNNConfig, run, on_labelled=True)


def knn_result(
    train: Features,
    test: Features,
    config: KNNConfig,
    device: torch.device | str = "cpu",
    images: ClassImages | None = None,
) -> TaskResult:
    """What `evaluate_knn` says, before it is made into an entry; with pictures of `images`.

    Of few-shot draws the mistakes are those of the first.
    """
    train, test = labelled(train, "training"), labelled(test, "test")
    assert train.labels is not None
    banks = _draws(train.labels, config)
    sizes = _clip(config.k, min(len(rows) for rows in banks))
    if sizes[-1] < max(config.k):
        log.info("k is clipped to the %d training images: %s", sizes[-1], sizes)
    headline = headline_k(config, sizes[-1])
    tries = [_votes(train.rows(rows), test, sizes, config, device) for rows in banks]
    mean = {k: torch.stack([found[k].hits for found in tries]).mean(0) for k in sizes}
    details: dict[str, Any] = {
        "headline_k": headline,
        "k": {str(k): _shares(hits, count_classes(train, test)) for k, hits in mean.items()},
        "temperature": config.temperature,
    }
    guesses = tries[0][headline].guesses
    result = classification(mean[headline][0], train, test, details, config.seed, guesses, images)
    if images is not None:
        result = replace(result, pictures=_pictures(guesses, train.rows(banks[0]), test, images))
    if config.n_per_class is None:
        return result
    hits = torch.stack([found[headline].hits[0] for found in tries])
    each = hits.double().mean(dim=1)
    few = {
        "n_per_class": config.n_per_class,
        "tries": config.tries,
        "std": float(each.std(correction=0)),
        "interval_with_draws": _interval_with_draws(hits, config.seed),
        "train_samples": len(banks[0]),
    }
    return replace(result, seeds=tuple(each.tolist()), details={**result.details, **few})


def _interval_with_draws(hits: Float[Tensor, "draws samples"], seed: int) -> list[float]:
    """The 95 % interval for other test images and other few-shot draws: both are resampled."""
    generator = torch.Generator().manual_seed(seed)
    draws, samples = hits.shape
    means = []
    for _ in range(RESAMPLES):
        some = torch.randint(draws, (draws,), generator=generator)
        means.append(hits[some][:, torch.randint(samples, (samples,), generator=generator)].double().mean())
    return percentile_interval(torch.stack(means))


def headline_k(config: KNNConfig, bank: int) -> int:
    """20, or what is nearest to it among the k of the settings, for a bank of that many images."""
    return min(_clip(config.k, bank), key=lambda k: (abs(k - HEADLINE_K), k))


@dataclass(frozen=True)
class _Voted:
    """What the votes of some neighbours say of the test images."""

    hits: Float[Tensor, "2 samples"]
    """Whether each is a top-1 (row 0) and a top-5 (row 1) hit, as 0 or 1."""
    guesses: Guesses


def _votes(
    train: Features, test: Features, sizes: list[int], config: KNNConfig, device: torch.device | str
) -> dict[int, _Voted]:
    """The vote of the test images for each k."""
    assert train.labels is not None
    assert test.labels is not None
    classes = count_classes(train, test)
    bank, bank_labels = train.cls.to(device), train.labels.to(device)
    rows = max(1, CHUNK_NUMBERS // max(sizes[-1], classes * len(sizes)))
    parts: dict[int, list[_Voted]] = {k: [] for k in sizes}
    for part in torch.arange(len(test)).split(rows):
        queries, labels = test.cls[part], test.labels[part].to(device)
        names = test.names[int(part[0]) : int(part[-1]) + 1]
        scores = knn_scores(bank, bank_labels, queries.to(device), classes, sizes, config.temperature)
        for k, votes in scores.items():
            rank = rank_of_truth(votes, labels)
            voted = votes.gather(1, labels[:, None])[:, 0] > 0
            hits = torch.stack([rank < 1, (rank < 5) & voted]).float().cpu()
            parts[k].append(_Voted(hits, by_votes(names, votes, labels)))
    return {k: _joined(found) for k, found in parts.items()}


def _joined(parts: Sequence[_Voted]) -> _Voted:
    hits = torch.cat([part.hits for part in parts], dim=1)
    return _Voted(hits, Guesses.joined([part.guesses for part in parts]))


def _pictures(
    guesses: Guesses, bank: Features, test: Features, images: ClassImages
) -> Callable[[], Iterator[EvalPicture]]:
    """Confusion and worst mistakes, beside each the training image that voted most."""

    def draw() -> Iterator[EvalPicture]:
        assert bank.labels is not None
        labels, called = bank.labels, class_names(count_classes(bank, test), images.train.classes)
        learned, tested = by_name(images.train), by_name(images.test)

        def neighbor(row: int) -> Neighbor:
            near = int(nearest(bank.cls, test.cls[row : row + 1], 1)[1])
            return Neighbor(near, int(labels[near]), lambda place: learned(bank.names[place]))

        yield from draw_classes(guesses, called, lambda row: tested(test.names[row]), neighbor)

    return draw


def _shares(hits: Float[Tensor, "2 samples"], classes: int) -> dict[str, float | None]:
    top1, top5 = hits.double().mean(dim=1).tolist()
    return {"top1": top1, "top5": top5 if classes > 5 else None}


def _clip(k: Sequence[int], bank: int) -> list[int]:
    return sorted({min(size, bank) for size in k})


def _draws(labels: Int[Tensor, " samples"], config: KNNConfig) -> list[Int[Tensor, " picked"]]:
    """The rows of each bank: all of them once, or `tries` seeded draws of `n_per_class` per class."""
    if config.n_per_class is None:
        return [torch.arange(len(labels))]
    draws = []
    for number in range(config.tries):
        generator = torch.Generator().manual_seed(config.seed * 10_007 + number)
        order = torch.randperm(len(labels), generator=generator)
        picked = [order[labels[order] == c][: config.n_per_class] for c in labels.unique().tolist()]
        draws.append(torch.cat(picked).sort().values)
    return draws
