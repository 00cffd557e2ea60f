"""Robustness: a classifier of clean images, asked about images of another kind.

It is fitted once, to the clean training images. Then it is shown

* the clean test images, to compare with;
* the same images corrupted in the style of ImageNet-C (`nexus/evals/corruptions`);
* other test sets, such as ImageNet-R. Their classes are matched with the learned ones by name. Images of
  other classes are left out, and of the learned classes only those compete that occur in the set, as the
  authors of ImageNet-A and -R do it.

The headline is the mean accuracy over all corruptions and severities (without any: that of the first other
test set). The paper divides errors by AlexNet's; we do not, we have no AlexNet.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field, PositiveInt
from torch import Tensor

from nexus.config import Config
from nexus.data.datasets import ImageDataset, available_splits, open_dataset
from nexus.data.datasets.splits import canonical
from nexus.errors import ConfigError, DataError, choose
from nexus.evals.class_mapping import match_classes, read_mapping
from nexus.evals.class_pictures import ClassImages, by_name, draw_classes
from nexus.evals.classifiers import FITS, Classifier
from nexus.evals.context import EvalContext
from nexus.evals.corruptions import KINDS, CorruptedDataset
from nexus.evals.corruptions.sheet import corruption_sheet
from nexus.evals.knn import KNNConfig
from nexus.evals.linear import LinearConfig
from nexus.evals.logreg import LogRegConfig
from nexus.evals.metrics import class_names, classification, labelled, rank_of_truth
from nexus.evals.mistakes import Guesses, Guessing
from nexus.evals.task import EvalPicture, Task, TaskResult
from nexus.features import Features
from nexus.features.view import NATIVE

log = logging.getLogger(__name__)

AFFORDABLE = ("gaussian_noise", "motion_blur", "snow", "contrast", "jpeg_compression")
"""One or two of each group. With three severities that is a fifth of the full fifteen times five."""


class RobustnessConfig(Config):
    """Robustness."""

    probe: Literal["knn", "linear", "logreg"] = "linear"
    """The classifier: its own settings follow below."""
    corruptions: tuple[str, ...] = AFFORDABLE
    """Kinds of corruption; [all] for the fifteen, [] for none."""
    severities: Annotated[tuple[Annotated[int, Field(ge=1, le=5)], ...], Field(min_length=1)] = (1, 3, 5)
    """Their strengths, 1 to 5."""
    max_images: PositiveInt = 2000
    """Most test images to corrupt, a seeded draw."""
    test_sets: tuple[str, ...] = ()
    """Other test sets, whatever `--data` takes; of one with splits the test images, else the val ones."""
    mapping: str | None = None
    """A JSON or CSV file from their class names to the learned ones; null to match by name."""
    seed: int = 0
    """Seed of the corruptions, of the draw of images and of the bootstrap."""
    knn: KNNConfig = KNNConfig()
    """Settings of the k-NN."""
    linear: LinearConfig = LinearConfig()
    """Settings of the linear probe."""
    logreg: LogRegConfig = LogRegConfig()
    """Settings of the logistic regression."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """The corruptions by name; `ConfigError` for one that does not exist."""
        if "all" in self.corruptions:
            return tuple(KINDS)
        for kind in self.corruptions:
            choose(kind, KINDS, "corruption")
        return self.corruptions


@dataclass(frozen=True)
class _Fitted:
    """A classifier, and what it was fitted to."""

    scores: Classifier
    guesses: Guessing
    train: Features
    layers: int
    images: ImageDataset
    """Those that it was fitted to."""
    count: int
    """Classes."""


def run(context: EvalContext, config: RobustnessConfig) -> TaskResult:
    """Fit one classifier, and score it on everything that the settings name."""
    kinds = config.kinds
    if not kinds and not config.test_sets:
        raise ConfigError("robustness.corruptions and robustness.test_sets are both empty; name one of them")
    train, test, split = context.labelled()
    mapping = None if config.mapping is None else read_mapping(config.mapping)
    names = tuple(Path(spec).name or spec for spec in config.test_sets)
    names = config.test_sets if len(set(names)) < len(names) else names
    shifted = {name: _open(spec) for name, spec in zip(names, config.test_sets, strict=True)}
    fitted = _fit(context, config, train, test)
    base = _drawn(test, config.max_images, config.seed) if kinds else test
    features = context.features(base, layers=fitted.layers)
    clean = _scored(fitted, features, config.seed, ClassImages(train, base))
    others = {
        name: _on_other(context, fitted, dataset, mapping, config.seed) for name, dataset in shifted.items()
    }
    parts = {"clean": clean, **others}
    if not kinds:
        first = next(iter(others))
        return replace(others[first], split=split, parts={"clean": clean, **dict(list(others.items())[1:])})
    return replace(_on_corrupted(context, fitted, base, config, clean), split=split, parts=parts)


TASK = Task(
    "robustness",
    "a clean classifier on corrupted and other images",
    RobustnessConfig,
    run,
    layers=lambda config: FITS[config.probe].layers(getattr(config, config.probe)),
)


def _fit(context: EvalContext, config: RobustnessConfig, train: ImageDataset, test: ImageDataset) -> _Fitted:
    fit, settings = FITS[config.probe], getattr(config, config.probe)
    layers = fit.layers(settings)
    learned = labelled(context.features(train, layers=layers), "training")
    assert learned.labels is not None
    assert test.labels is not None
    count = int(max(int(learned.labels.max()), int(test.labels.max()))) + 1
    scores = fit.fit(learned, settings, count, context.device)
    return _Fitted(scores, fit.guesses, learned, layers, train, count)


def _scored(
    fitted: _Fitted,
    features: Features,
    seed: int,
    images: ClassImages,
    allowed: Int[Tensor, " allowed"] | None = None,
    details: dict[str, Any] | None = None,
) -> TaskResult:
    """Accuracy on labelled features; of the classes only those `allowed` compete."""
    features = labelled(features, "test")
    hits, guesses = _answers(fitted, features, allowed)
    details = {"classifier": "clean", **(details or {})}
    found = classification(hits, fitted.train, features, details, seed, guesses, images)
    if allowed is None:
        return found
    return replace(found, chance=1 / len(allowed), chance_means=f"one of {len(allowed):,} classes")


def _answers(
    fitted: _Fitted, features: Features, allowed: Int[Tensor, " allowed"] | None = None
) -> tuple[Float[Tensor, " samples"], Guesses]:
    """Whether each image is a hit, as 0 or 1, and what was said of it."""
    assert features.labels is not None
    scores = fitted.scores(features)
    if allowed is not None:
        shut = torch.full((scores.shape[1],), -torch.inf)
        shut[allowed] = 0
        scores = scores + shut
    hits = (rank_of_truth(scores, features.labels) < 1).float()
    return hits, fitted.guesses(features.names, scores, features.labels)


# -- corruptions -----------------------------------------------------------------------------------


def _on_corrupted(
    context: EvalContext, fitted: _Fitted, base: ImageDataset, config: RobustnessConfig, clean: TaskResult
) -> TaskResult:
    """Mean accuracy over kinds and severities; one row of hits for each."""
    side = shown_side(context)
    hits, said, sets, features = [], [], [], None
    for kind in config.kinds:
        for severity in config.severities:
            made = CorruptedDataset(base, kind, severity, side, config.seed)
            features = labelled(context.features(made, layers=fitted.layers, keep=False), "test")
            right, guesses = _answers(fitted, features)
            hits.append(right)
            said.append(guesses)
            sets.append(made)
    assert features is not None
    everything = Guesses.joined(said)
    table = torch.stack(hits)
    shares = table.mean(dim=1).view(len(config.kinds), len(config.severities)).tolist()
    accuracy = {
        kind: dict(zip(map(str, config.severities), row, strict=True))
        for kind, row in zip(config.kinds, shares, strict=True)
    }
    mean = float(table.double().mean())
    details = {
        "probe": config.probe,
        "corruptions": accuracy,
        "severities": list(config.severities),
        "clean": clean.value,
        "mean_corruption_error": 1 - mean,
        "kept": mean / clean.value if clean.value else None,
        "groups": _by_group(accuracy),
        "side": side,
    }
    found = classification(table.mean(dim=0), fitted.train, features, details, config.seed, everything)
    by_place = {(kind, int(s)): share for kind, row in accuracy.items() for s, share in row.items()}

    def pictures() -> Iterator[EvalPicture]:
        yield _sheet(base, config, side, by_place)
        yield from _mistakes(everything, sets, fitted)

    return replace(found, pictures=pictures)


def _mistakes(said: Guesses, sets: Sequence[CorruptedDataset], fitted: _Fitted) -> Iterator[EvalPicture]:
    """Confusion and worst mistakes over all corruptions; `said` has as many rows for each of `sets`."""
    openers = [by_name(made) for made in sets]
    rows = len(said.names) // len(sets)
    called = class_names(fitted.count, fitted.images.classes)
    yield from draw_classes(
        said, called, lambda row: openers[row // rows](said.names[row]), of="corrupted test images"
    )


def _by_group(accuracy: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Mean accuracy over the kinds of each group."""
    values: dict[str, list[float]] = {}
    for kind, row in accuracy.items():
        values.setdefault(KINDS[kind].group, []).extend(row.values())
    return {group: sum(shares) / len(shares) for group, shares in values.items()}


def shown_side(context: EvalContext) -> int:
    """The shorter side that images are resized to before the crop; corruptions are made at that size."""
    view = context.view
    if view.size == NATIVE:
        return 256
    return view.resize or round(min(context.size) * 256 / 224)


def _drawn(dataset: ImageDataset, most: int, seed: int) -> ImageDataset:
    if len(dataset) <= most:
        return dataset
    log.info("corrupting %d of %s test images; robustness.max_images=N for more", most, f"{len(dataset):,}")
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))
    return dataset.subset(order[:most].sort().values.numpy())


def _sheet(
    base: ImageDataset, config: RobustnessConfig, side: int, shares: dict[tuple[str, int], float]
) -> EvalPicture:
    sample = base[0]
    image = corruption_sheet(
        sample.image,
        config.kinds,
        config.severities,
        side,
        name=sample.name,
        seed=config.seed,
        shares=shares,
    )
    return EvalPicture("Corruptions", "One test image; below each, the accuracy on all of them.", image)


# -- other test sets -------------------------------------------------------------------------------


def _open(spec: str) -> ImageDataset:
    """The test images of a source: its split `test`, else `val`, else all of them."""
    splits = {canonical(name): name for name in available_splits(spec)}
    dataset = open_dataset(spec, next((splits[name] for name in ("test", "val") if name in splits), None))
    if dataset.labels is None:
        raise DataError(f"{dataset.description} has no labels; put each class in a folder of its own")
    return dataset


def _on_other(
    context: EvalContext,
    fitted: _Fitted,
    dataset: ImageDataset,
    mapping: dict[str, str | None] | None,
    seed: int,
) -> TaskResult:
    """Accuracy on the images of the classes that were learned."""
    assert dataset.labels is not None
    found = match_classes(dataset.classes, fitted.images.classes, mapping)
    ours = np.array(
        [-1 if match is None else match for match in found] + [-1]
    )  # an unknown label is the last
    labels = ours[dataset.labels]
    learned = np.isin(labels, fitted.train.labels.numpy()) if fitted.train.labels is not None else labels >= 0
    kept = np.flatnonzero((labels >= 0) & learned)
    if not len(kept):
        raise DataError(f"{dataset.description}: no image is of a class that was learned")
    part = dataset if len(kept) == len(dataset) else dataset.subset(kept)
    features = context.features(part, layers=fitted.layers)
    assert features.labels is not None
    features = replace(features, labels=torch.as_tensor(ours)[features.labels])
    allowed = torch.as_tensor(np.unique(labels[kept]))
    without = [name for name, match in zip(dataset.classes, found, strict=True) if match is None]
    if without:
        log.info("%s: %d classes have no counterpart and are left out", dataset.description, len(without))
    details = {
        "data": dataset.description,
        "classes_that_compete": len(allowed),
        "classes_without_counterpart": without[:50],
        "images_left_out": len(dataset) - len(kept),
    }
    return _scored(fitted, features, seed, ClassImages(fitted.images, part), allowed, details)
