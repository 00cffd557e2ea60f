"""What matters when DINOv2 is trained at small scale: one factor at a time, several seeds, the same images.

    python -m benchmarks.small_scale --data CIFAR10/cifar10-train.tar.gz --results search.jsonl
    python -m benchmarks.small_scale ... --factors terms centering --seeds 0 1 2
    python -m benchmarks.small_scale ... --factors prototypes --settings 4096
    python -m benchmarks.small_scale ... --report benchmarks/results/small_scale_DATE.md      # runs nothing
    python -m benchmarks.small_scale ... --images 256 --bank 200 --queries 100 --factors terms  # does it run?

Each run sees `--images` images, drawn from `--train` ones, cut on the device. Teacher and student are
measured at the end: k-NN (k = 20) of whole images, with a bank of `--bank` images that they were trained on,
and `--queries` images of the same source that they were not. No test image is used, so a recipe may be chosen
by what comes out. A run adds one line to the results; what is there is not run again, and several processes
may share a file: a run that another one has begun is left to it. Factors and settings:
`benchmarks/small_scale_factors.py`.
"""

import argparse
import contextlib
import fcntl
import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.small_scale_factors import BASES, FACTORS, Settings
from benchmarks.small_scale_report import report
from nexus.config import build, from_dotted, merge
from nexus.data.batch import Batch
from nexus.data.datasets import open_dataset
from nexus.data.masking import BlockMasker
from nexus.data.order import Order
from nexus.data.resident import ResidentBatches, ResidentImages
from nexus.evals.knn import knn_scores
from nexus.evals.metrics import bootstrap_interval
from nexus.models.ssl import DINOv2
from nexus.models.vision import VisionTransformer
from nexus.training.config import Schedules, TrainConfig
from nexus.training.state import build_state, vit_config
from nexus.training.step import autocast, train_step

CPU = torch.device("cpu")
NEIGHBORS = 20
UNTRAINED = ("untrained", "raw pixels")


@dataclass(frozen=True)
class Trial:
    """One run: what is changed, and the seed."""

    factor: str
    setting: str
    changes: Settings
    seed: int


@dataclass(frozen=True)
class Images:
    """Resident images of a source: those to train on, a bank of them, and queries that are not among them."""

    train: ResidentImages
    bank: tuple[Tensor, Tensor]
    queries: tuple[Tensor, Tensor]


def read_images(options: argparse.Namespace) -> Images:
    """Images to train on and queries, shuffled once: many sources are sorted by class."""
    dataset = open_dataset(options.data)
    labels = dataset.labels
    assert labels is not None
    shuffled = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))
    rows = shuffled[: options.train + options.queries].tolist()
    assert len(rows) == options.train + options.queries, f"{options.data} has only {len(dataset)} images"
    found = ResidentImages.read(dataset.subset(rows), CPU)
    truth = torch.as_tensor(labels)[rows]
    cut = options.train
    bank = found.pixels[: options.bank], truth[: options.bank]
    return Images(ResidentImages(found.pixels[:cut], {}), bank, (found.pixels[cut:], truth[cut:]))


def trials(options: argparse.Namespace) -> Iterator[Trial]:
    """The base with all seeds, then factor after factor."""
    for seed in options.seeds:
        yield Trial("base", "base", {}, seed)
    for factor in options.factors:
        for setting, changes in FACTORS[factor].items():
            if options.settings and setting not in options.settings:
                continue
            for seed in options.seeds:
                yield Trial(factor, setting, changes, seed)


def configuration(trial: Trial, options: argparse.Namespace) -> TrainConfig:
    """The settings of a run; it has as many steps as the images give."""
    changes = {key: value for key, value in trial.changes.items() if not key.startswith("search.")}
    settings = merge(from_dotted(BASES[options.base]), from_dotted(changes))
    steps = options.images // settings["schedule"]["batch_size"]
    precision = settings.get("compute", {}).get("precision", "bf16")
    more: dict[str, Any] = {
        "schedule.steps": steps,
        "compute.precision": precision,
        "data.source": options.data,
    }
    if "warmup_steps" not in settings["optim"]:
        more["optim.warmup_steps"] = steps // 10
    return build(TrainConfig, merge(settings, from_dotted({**more, "seed": trial.seed})))


def batches(config: TrainConfig, images: ResidentImages, first_half_px: int | None) -> Iterator[Batch]:
    """The normalised batches of a run, at another size for its first half where that is asked for."""
    mean, std = map(torch.tensor, config.data.normalization)
    size, steps = config.schedule.batch_size, config.schedule.steps
    patch = vit_config(config.model, config.crops.global_size).patch_size
    for step in range(steps):
        crops = config.crops
        if first_half_px and step < steps // 2:
            crops = crops.model_copy(update={"global_size": first_half_px})
        side = crops.global_size // patch
        masker = BlockMasker(config.masks, side, side)
        maker = ResidentBatches(images, crops, Order(len(images.pixels), config.seed), masker, size)
        yield maker.batch(range(step * size, (step + 1) * size)).recoloured().normalized(mean, std)


def train(config: TrainConfig, images: ResidentImages, changes: Settings) -> tuple[DINOv2, dict[str, float]]:
    """The networks at the end of a run, and the metrics of its last steps, averaged."""
    state, schedules = build_state(config, CPU), Schedules(config)
    last: list[dict[str, float]] = []
    for step, batch in enumerate(batches(config, images, changes.get("search.first_half_px"))):
        torch.manual_seed((config.seed << 32) + step)
        values = schedules.at(step)
        metrics = train_step(
            state.model,
            [batch],
            state.optimizer,
            state.scaler,
            values,
            precision=config.compute.precision,
            clip=config.optim.clip_grad,
        )
        if step >= config.schedule.steps - 10:
            last.append({key: float(value) for key, value in metrics.items()})
    means = {key: sum(row[key] for row in last) / len(last) for key in last[0]} if last else {}
    return state.model, means


def normalized(pixels: Tensor, config: TrainConfig) -> Tensor:
    """Whole images as a backbone takes them."""
    mean, std = (torch.tensor(values)[:, None, None] for values in config.data.normalization)
    return (pixels.permute(0, 2, 1, 3).float() / 255 - mean) / std


@torch.no_grad()
def features(backbone: VisionTransformer, config: TrainConfig, pixels: Tensor) -> Tensor:
    """CLS features of whole images."""
    backbone.eval()
    parts = []
    for part in pixels.split(256):
        with autocast(CPU, config.compute.precision):
            parts.append(backbone.forward_features(normalized(part, config))["x_norm_clstoken"].float())
    return torch.cat(parts)


def hits(bank: tuple[Tensor, Tensor], queries: tuple[Tensor, Tensor]) -> Tensor:
    """Which queries k-NN names rightly."""
    classes = int(bank[1].max()) + 1
    scores = knn_scores(bank[0], bank[1], queries[0], classes, [NEIGHBORS])[NEIGHBORS]
    return scores.argmax(dim=1) == queries[1]


def run(trial: Trial, images: Images, options: argparse.Namespace) -> dict[str, Any]:
    """One line of the results."""
    config = configuration(trial, options)
    wall, cpu = time.perf_counter(), time.process_time()
    if trial.factor in UNTRAINED:
        model, metrics = build_state(config, CPU).model, {}
    else:
        model, metrics = train(config, images.train, trial.changes)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    if trial.factor == "raw pixels":
        backbones = {"teacher": lambda pixels: normalized(pixels, config).flatten(1)}
    else:
        networks = {"teacher": model.teacher_backbone, "student": model.student_backbone}
        backbones = {name: partial(features, network, config) for name, network in networks.items()}
    right = {}
    for name, embed in backbones.items():
        bank, queries = (embed(part[0]) for part in (images.bank, images.queries))
        right[name] = hits((bank, images.bank[1]), (queries, images.queries[1]))
    return {
        "factor": trial.factor,
        "setting": trial.setting,
        "seed": trial.seed,
        "images": config.schedule.steps * config.schedule.batch_size,
        "cpu_seconds": cpu,
        "wall_seconds": wall,
        "knn": float(right["teacher"].float().mean()),
        "interval": bootstrap_interval(right["teacher"].float()),
        "student": float(right["student"].float().mean()) if "student" in right else None,
        "metrics": {key: metrics[key] for key in sorted(metrics)},
        "changes": dict(trial.changes),
        "right": "".join(map(str, right["teacher"].int().tolist())),
    }


def key_of(trial: Trial, options: argparse.Namespace) -> str:
    """What a run is known by: everything that its result depends on."""
    facts = [dict(BASES[options.base]), dict(trial.changes), trial.factor, trial.seed]
    facts += [options.images, options.train, options.bank, options.queries]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The lines of the results; one that a kill cut off is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        with contextlib.suppress(json.JSONDecodeError):
            rows.append(json.loads(line))
    return rows


@contextlib.contextmanager
def claim(folder: Path, key: str) -> Iterator[bool]:
    """Whether this run is ours; the claim ends with the process at the latest."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / key).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def append(path: Path, row: dict[str, Any]) -> None:
    """Add a line, also after one that was cut off."""
    with path.open("a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        text = file.read()
        file.write(("\n" if text and not text.endswith("\n") else "") + json.dumps(row) + "\n")


def search(options: argparse.Namespace) -> None:
    """All runs that are not there yet."""
    images = read_images(options)
    wanted = [*trials(options), Trial("raw pixels", "raw pixels", {}, 0)]
    wanted[1:1] = [Trial("untrained", "untrained", {}, seed) for seed in options.seeds]
    for trial in wanted:
        key = key_of(trial, options)
        with claim(options.results.with_suffix(".claims"), key) as mine:
            if mine and key not in {row["key"] for row in read_rows(options.results)}:
                row = run(trial, images, options)
                append(options.results, {"key": key, **row})
                said = f"k-NN {100 * row['knn']:.1f} %, {row['cpu_seconds']:.0f} s CPU"
                print(f"{trial.factor:<20} {trial.setting:<30} seed {trial.seed}  {said}", flush=True)


def main(arguments: list[str] | None = None) -> None:
    """Run what is left to run, or write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", required=True, help="labelled images of one size; labels only score")
    parser.add_argument("--results", type=Path, required=True, help="JSON lines, added to")
    parser.add_argument("--base", default="cifar", choices=list(BASES))
    parser.add_argument("--images", type=int, default=16_000, help="images seen by a run")
    parser.add_argument("--train", type=int, default=20_000, help="images trained on")
    parser.add_argument("--bank", type=int, default=8_000)
    parser.add_argument("--queries", type=int, default=4_000)
    parser.add_argument("--factors", nargs="*", default=list(FACTORS), choices=list(FACTORS))
    parser.add_argument("--settings", nargs="*", help="of these factors, by name; left out: all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--report", type=Path, help="write the table of all results here; run nothing")
    options = parser.parse_args(arguments)
    if options.report:
        options.report.write_text(report(read_rows(options.results), options), encoding="utf-8")
        return
    torch.set_num_threads(options.threads)
    search(options)


if __name__ == "__main__":
    main()
