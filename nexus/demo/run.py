"""The demo from end to end: train, measure, compare, picture, report."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nexus.checkpoint import write_atomic
from nexus.config import build, read_yaml
from nexus.data.batch import Sample
from nexus.data.contact_sheet import contact_sheet
from nexus.data.datasets import ImageDataset, open_dataset
from nexus.data.masking import BlockMasker
from nexus.data.multicrop import MultiCropAugmentation
from nexus.demo.report import PcaExample, ReportContent, Score, ScoreRow, Sheet, verdict, write_report
from nexus.demo.source import DEMO_NAME, demo_data
from nexus.evals import evaluate
from nexus.features import Features, extract, iterate, make_view
from nexus.log import logger
from nexus.models.vision import VisionTransformer
from nexus.training import TrainConfig, train
from nexus.training.state import build_state
from nexus.viz import Neighbors, Tile, nearest, patch_pca, read_metrics
from nexus.viz.images import colors_to_image
from nexus.weights import load

PICTURES = 6
NEIGHBORS = 6


@dataclass(frozen=True)
class DemoResult:
    """What the demo found: accuracies by row, the verdict in a sentence, and where the report is."""

    rows: dict[str, dict[str, float]]
    verdict: str
    report: Path
    folder: Path


def run_demo(out: str | Path, *, steps: int | None = None, overwrite: bool = False) -> DemoResult:
    """Train on the embedded images, then evaluate and write `report.html` into the run folder.

    The same seed gives the same numbers on the same kind of machine.
    """
    overrides = {} if steps is None else {"schedule.steps": steps}
    began = time.monotonic()
    result = train(demo_data(), out, recipe="demo", overrides=overrides, overwrite=overwrite)
    seconds = time.monotonic() - began
    folder = result.folder.path
    config = build(TrainConfig, read_yaml(result.folder.config))
    models = {
        "untrained backbone": build_state(config, torch.device("cpu")).model.teacher_backbone,
        "student": load(folder, encoder="student"),
        "teacher": load(folder, encoder="teacher"),
    }
    logger.info("measuring: raw pixels, untrained backbone, student, teacher")
    scores = measure(models, config.crops.global_size)
    rows = [_score_row(name, result) for name, result in scores.items()]
    content = ReportContent(
        title="nexus demo",
        lead=f"A small vision transformer was trained by DINOv2, from random weights and without labels, "
        f"on the {DEMO_NAME} that come with nexus. Its features were then frozen and measured on images "
        "that it had never seen.",
        rows=rows,
        classes=scores["teacher"]["knn"]["classes"],
        facts=_facts(config, models["teacher"], seconds),
        metrics=read_metrics(folder),
        sheets=_sheets(config),
        pca=_patch_pictures(models, config.crops.global_size),
        neighbors=_neighbors(models, config.crops.global_size),
        settings=_settings(config),
        commands=_commands(folder),
    )
    report = write_report(folder / "report.html", content)
    table = {row.name: {"knn": row.knn.value, "linear": _value(row.linear)} for row in rows}
    write_atomic(folder / "evals" / "demo.json", json.dumps({"rows": table, **scores}, indent=1))
    return DemoResult(table, verdict(content), report, folder)


def measure(models: dict[str, VisionTransformer], size: int) -> dict[str, dict[str, Any]]:
    """k-NN and linear probe of raw pixels and of each model, on the embedded images."""
    scores: dict[str, dict[str, Any]] = {}
    for name, model in models.items():
        result = evaluate(demo_data(), model, baseline=not scores, size=size)
        scores.setdefault("raw pixels", result.get("baseline", {}))
        scores[name] = {task: result[task] for task in ("knn", "linear")}
    return scores


def _score_row(name: str, result: dict[str, Any]) -> ScoreRow:
    knn, linear = (Score(result[task]["top1"], result[task]["samples"]) for task in ("knn", "linear"))
    return ScoreRow(name, knn, linear)


def _value(score: Score | None) -> float:
    return score.value if score else float("nan")


def _samples(split: str, count: int) -> tuple[ImageDataset, list[Sample]]:
    """`count` images spread evenly over a split, and the split."""
    dataset = open_dataset(demo_data(), split)
    index = np.linspace(0, len(dataset) - 1, count).round().astype(int).tolist()
    return dataset.subset(index), [dataset[i] for i in index]


def _sheets(config: TrainConfig) -> list[Sheet]:
    """Crops and masks of two training images, as this run draws them."""
    _, samples = _samples("train", 4)
    size, patch = config.crops.global_size, _patch_size(config)
    masker = BlockMasker(config.masks, size // patch, size // patch)
    sheets = []
    for number, sample in enumerate(samples[1:3]):
        rng = np.random.default_rng(number)
        crops = MultiCropAugmentation(config.crops).crops(sample.image, rng)
        masks = masker.batch(4, rng)
        order = masks.sum(dim=1).argsort(descending=True)
        sheets.append(Sheet(contact_sheet(sample.image, crops, masks[order[[0, -1]]]), sample.name))
    return sheets


def _patch_size(config: TrainConfig) -> int:
    return build_state(config, torch.device("meta")).model.student_backbone.patch_size


def _patch_pictures(models: dict[str, VisionTransformer], size: int) -> list[PcaExample]:
    """Patch-PCA of test images, one basis over all of them, before and after training."""
    subset, samples = _samples("test", PICTURES)
    colors = {}
    for name in ("untrained backbone", "teacher"):
        view = make_view(None, {"size": size})
        batch = next(iterate(models[name], subset, view, patches=True))
        assert batch.patches is not None
        side = round(batch.patches.shape[1] ** 0.5)
        colors[name] = patch_pca(batch.patches, side, side)
    return [
        PcaExample(sample.image, colors_to_image(before), colors_to_image(after))
        for sample, before, after in zip(
            samples, colors["untrained backbone"], colors["teacher"], strict=True
        )
    ]


def _neighbors(models: dict[str, VisionTransformer], size: int) -> list[Neighbors]:
    """The nearest training images of a few test images, before and after training."""
    subset, samples = _samples("test", PICTURES)
    bank_set = open_dataset(demo_data(), "train")
    found: dict[str, list[list[Tile]]] = {}
    for name in ("untrained backbone", "teacher"):
        queries, bank = (_cls(models[name], part, size) for part in (subset, bank_set))
        index, _ = nearest(queries.cls, bank.cls, NEIGHBORS)
        found[name] = [[_tile(bank_set[i], bank_set.classes) for i in row] for row in index.tolist()]
    return [
        Neighbors(_tile(sample, subset.classes), before, after)
        for sample, before, after in zip(
            samples, found["untrained backbone"], found["teacher"], strict=True
        )
    ]


def _cls(model: VisionTransformer, dataset: ImageDataset, size: int) -> Features:
    return extract(model, dataset, size=size)


def _tile(sample: Sample, classes: tuple[str, ...]) -> Tile:
    return Tile(sample.image, classes[sample.label])


def _facts(config: TrainConfig, model: VisionTransformer, seconds: float) -> dict[str, str]:
    seen = config.schedule.steps * config.schedule.batch_size
    parameters = sum(p.numel() for p in model.parameters())
    return {
        "Steps": f"{config.schedule.steps:,}",
        "Images seen": f"{seen:,}",
        "Training time": f"{int(seconds) // 60} min {int(seconds) % 60} s",
        "Device": f"{config.compute.device}, {torch.get_num_threads()} threads",
        "Backbone": f"{config.model.arch}, {parameters / 1e6:.1f} M parameters",
    }


def _settings(config: TrainConfig) -> dict[str, str]:
    crops, masks, optim = config.crops, config.masks, config.optim
    peak = optim.peak_lr(config.schedule.batch_size)
    return {
        "Crops": f"2 global of {crops.global_size} px, {crops.local_number} local of {crops.local_size} px",
        "Masks": f"{masks.probability:.0%} of the crops, {masks.ratio_min:.0%} to {masks.ratio_max:.0%} "
        "of their patches",
        "Prototypes": f"{config.objective.out_dim:,}, {config.objective.centering}",
        "Batch": f"{config.schedule.batch_size} images",
        "Optimizer": f"AdamW, peak learning rate {peak:.2g}, weight decay {optim.weight_decay} to "
        f"{optim.weight_decay_end}",
        "Teacher": f"momentum {config.teacher.momentum} to {config.teacher.momentum_end}",
        "Seed": str(config.seed),
    }


def _commands(folder: Path) -> list[tuple[str, str]]:
    return [
        ("Train on your own images:", "nexus train --data FOLDER --out runs/mine"),
        ("Write the features of every image:", f"nexus embed --data FOLDER --model {folder} --out f.parquet"),
        ("Measure on labelled images:", f"nexus eval --data LABELLED --model {folder}"),
        ("Repeat this run:", f"nexus train --config {folder}/config.yaml --out runs/again"),
    ]
