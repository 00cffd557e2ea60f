"""The demo from end to end: train, measure, compare, picture, report."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nexus.config import build, read_yaml
from nexus.demo.pictures import crop_sheets, photo_colors, tile_neighbors
from nexus.demo.report import ReportContent, Score, ScoreRow, verdict, write_report
from nexus.demo.source import DEMO_NAME, demo_data
from nexus.evals import LinearConfig, evaluate
from nexus.log import logger
from nexus.models.vision import VisionTransformer
from nexus.records import write_record
from nexus.training import TrainConfig, train
from nexus.training.state import build_state
from nexus.viz import read_metrics
from nexus.weights import load

LINEAR = LinearConfig()
"""The probe of `nexus eval`, unchanged."""
UNTRAINED, TEACHER = "untrained backbone", "teacher"


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
    overrides: dict[str, Any] = {"data.split": "train"}
    if steps is not None:
        overrides["schedule.steps"] = steps
    began = time.monotonic()
    result = train(demo_data(), out, recipe="demo", overrides=overrides, overwrite=overwrite)
    seconds = time.monotonic() - began
    folder = result.folder.path
    config = build(TrainConfig, read_yaml(result.folder.config))
    models = {
        UNTRAINED: build_state(config, torch.device("cpu")).model.teacher_backbone,
        "student": load(folder, encoder="student"),
        TEACHER: load(folder, encoder="teacher"),
    }
    logger.info("measuring: raw pixels, untrained backbone, student, teacher")
    scores = measure(models, config.crops.global_size)
    logger.info("drawing: crops and masks, patch-PCA, nearest neighbours")
    content = _content(config, models, scores, folder, seconds)
    report = write_report(folder / "report.html", content)
    table = {row.name: {"knn": row.knn.value, "linear": _value(row.linear)} for row in content.rows}
    sentence = verdict(content)
    record = {"rows": table, "verdict": sentence, **scores}
    write_record(folder / "evals" / "demo.json", record)
    return DemoResult(table, sentence, report, folder)


def _content(
    config: TrainConfig,
    models: dict[str, VisionTransformer],
    scores: dict[str, dict[str, Any]],
    folder: Path,
    seconds: float,
) -> ReportContent:
    before, after, size = models[UNTRAINED], models[TEACHER], config.crops.global_size
    return ReportContent(
        title="nexus demo",
        lead=f"A small vision transformer was trained by DINOv2, from random weights and without labels, on "
        f"the training part of {DEMO_NAME}. Its features were then frozen and had to tell, for tiles kept "
        "out of the training, which of the ten photographs each was cut from.",
        rows=[_score_row(name, result) for name, result in scores.items()],
        classes=scores[TEACHER]["knn"]["classes"],
        facts=_facts(config, after, seconds),
        metrics=read_metrics(folder),
        sheets=crop_sheets(config, after.patch_size),
        pca=photo_colors(before, after, size),
        neighbors=tile_neighbors(before, after, size),
        settings=_settings(config, after),
        commands=_commands(folder),
    )


def measure(models: dict[str, VisionTransformer], size: int) -> dict[str, dict[str, Any]]:
    """k-NN and linear probe of raw pixels and of each model, on the embedded images."""
    scores: dict[str, dict[str, Any]] = {}
    for name, model in models.items():
        result = evaluate(demo_data(), model, baseline=not scores, linear=LINEAR, size=size, cache="off")
        scores.setdefault("raw pixels", result.get("baseline", {}))
        scores[name] = {task: result[task] for task in ("knn", "linear")}
    return scores


def _score_row(name: str, result: dict[str, Any]) -> ScoreRow:
    knn, linear = (Score(result[task]["top1"], result[task]["samples"]) for task in ("knn", "linear"))
    return ScoreRow(name, knn, linear)


def _value(score: Score | None) -> float:
    return score.value if score else float("nan")


def _facts(config: TrainConfig, model: VisionTransformer, seconds: float) -> dict[str, str]:
    seen = config.schedule.steps * config.schedule.batch_size
    threads = torch.get_num_threads()
    parameters = sum(p.numel() for p in model.parameters())
    return {
        "Steps": f"{config.schedule.steps:,}",
        "Tiles seen": f"{seen:,}",
        "Training time": f"{int(seconds) // 60} min {int(seconds) % 60} s",
        "Device": f"{config.compute.device}, {threads} thread{'s' * (threads > 1)}",
        "Parameters": f"{parameters / 1e6:.1f} M",
    }


def _settings(config: TrainConfig, model: VisionTransformer) -> dict[str, str]:
    crops, masks, optim = config.crops, config.masks, config.optim
    peak = optim.peak_lr(config.schedule.batch_size)
    return {
        "Backbone": f"{config.model.arch} with {model.n_blocks} blocks of width {model.embed_dim}",
        "Crops": f"2 global of {crops.global_size} px, {crops.local_number} local of {crops.local_size} px",
        "Masks": f"{masks.probability:.0%} of the crops, {masks.ratio_min:.0%} to {masks.ratio_max:.0%} "
        "of their patches",
        "Prototypes": f"{config.objective.out_dim:,}, {config.objective.centering}",
        "Batch": f"{config.schedule.batch_size} images",
        "Optimizer": f"{optim.optimizer}, peak learning rate {peak:.2g}, weight decay "
        f"{optim.weight_decay} to {optim.weight_decay_end}",
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
