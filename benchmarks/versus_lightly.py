"""Features after the same budget: a recipe of nexus beside lightly's DINOv2 example at its own settings.

    python -m benchmarks.versus_lightly --train cifar10-train.tar.gz --test cifar10-test.tar.gz
    python -m benchmarks.versus_lightly ... --equal images --images 64000
    python -m benchmarks.versus_lightly ... --recipe photos-1k --seconds 3600 --folder runs/versus
    python -m benchmarks.versus_lightly ... --seconds 20 --bank 500 --queries 200              # does it run?

`--equal time`: each trains for `--seconds` of CPU time; `--equal images`: each sees `--images`. Schedules are
fitted to the steps that this gives. Both have one thread, the same precision, the same crop engine, the same
order of images. The example keeps its own: 65,536 prototypes and its head, teacher temperature 0.04 to 0.07,
momentum from 0.992, AdamW at 1e-3 without warm-up, weight decay 0.04 to 0.4, drop path 0.1, LayerScale 1e-5,
8 local crops, crop shares, colours, blur, steps of 64 images. What it does not keep, because ViT-S/16 at 224
pixels would see far fewer images in this time: backbone (ours: depth, width, heads, patch) and sizes of the
crops. That is in its favour. `--prototypes` changes one more thing, for equal images within reach of a CPU.

k-NN (k = 20) of both teachers, each loaded into our backbone, on images that neither has seen; with 95 %
intervals, and the difference on the same resampled images. Beside them raw pixels and the untrained backbone.
"""

import argparse
import datetime
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.lightly_dinov2 import LightlyDINOv2
from benchmarks.seed_head import hardware
from nexus.config import build, from_dotted, merge
from nexus.data.batch import Batch
from nexus.data.datasets import ImageDataset, open_dataset
from nexus.evals.knn import knn_scores
from nexus.evals.metrics import bootstrap_interval
from nexus.features import Features, extract, raw_pixels
from nexus.models.vision import VisionTransformer
from nexus.training.asked import Asked
from nexus.training.config import Schedules, TrainConfig
from nexus.training.launch import settle
from nexus.training.loop import batches
from nexus.training.state import build_state, vit_config
from nexus.training.step import train_step
from nexus.weights import load

CPU = torch.device("cpu")
NEIGHBORS, RESAMPLES, TRIED = 20, 1000, 4
THEIR_CROPS = {
    "crops.local_number": 8,
    "crops.global_scale": [0.32, 1.0],
    "crops.local_scale": [0.05, 0.32],
    "crops.blur_global1": 1.0,
    "crops.blur_global2": 0.1,
    "crops.blur_local": 0.5,
    "crops.solarize_global2": 0.2,
    "schedule.batch_size": 64,
}
"""Of the example's transform, in our words."""

Step = Callable[[Batch, int], object]


@dataclass(frozen=True)
class Outcome:
    """A trained contestant."""

    backbone: VisionTransformer
    images: int
    cpu_seconds: float
    wall_seconds: float


class Nexus:
    """Our recipe."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.state = build_state(config, CPU)
        self.schedules = Schedules(config)

    def step(self, batch: Batch, step: int) -> None:
        """One of the trainer's steps."""
        torch.manual_seed((self.config.seed << 32) + step)
        state, values = self.state, self.schedules.at(step)
        clip, precision = self.config.optim.clip_grad, self.config.compute.precision
        train_step(
            state.model, [batch], state.optimizer, state.scaler, values, precision=precision, clip=clip
        )

    def teacher(self, folder: Path) -> VisionTransformer:
        """The averaged backbone."""
        return self.state.model.teacher_backbone


class Lightly:
    """The example, with our backbone's shape."""

    prototypes = 65_536

    def __init__(self, config: TrainConfig) -> None:
        torch.manual_seed(config.seed)
        vit, self.steps = vit_config(config.model, config.crops.global_size), config.schedule.steps
        self.method = LightlyDINOv2(
            vit.patch_size,
            self.prototypes,
            0.1,
            config.compute.precision,
            img_size=config.crops.global_size,
            width=vit.embed_dim,
            depth=vit.depth,
            heads=vit.num_heads,
        )

    def step(self, batch: Batch, step: int) -> None:
        """One of its steps, at its own schedules."""
        self.method.schedule(step, self.steps)
        self.method.step(batch)

    def teacher(self, folder: Path) -> VisionTransformer:
        """Its teacher, read from the file that it would leave."""
        file = folder / "lightly.pth"
        torch.save(self.method.teacher.state_dict(), file)
        return load(file)


CONTESTANTS: dict[str, Callable[[TrainConfig], Nexus | Lightly]] = {"nexus": Nexus, "lightly": Lightly}


def configuration(name: str, options: argparse.Namespace, steps: int) -> TrainConfig:
    """The recipe's settings; for the example with its own crops and batch."""
    overrides = {"schedule.steps": steps, "seed": options.seed, "compute.device": "cpu", "compute.threads": 1}
    asked = Asked(data=options.train, recipe=options.recipe, overrides=[*options.set])
    config = settle(merge(asked.settings(), from_dotted(overrides))).config
    changes = THEIR_CROPS if name == "lightly" else {}
    return build(TrainConfig, merge(config.model_dump(), from_dotted(changes)))


def train(name: str, options: argparse.Namespace, dataset: ImageDataset) -> Outcome:
    """A few steps to know what one takes, then a fresh run of as many as the budget gives."""
    steps = options.images // configuration(name, options, 1).schedule.batch_size
    if options.equal == "time":
        config = configuration(name, options, TRIED + 1)
        seconds = loop(CONTESTANTS[name](config), config, dataset)[1] / (TRIED + 1)
        steps = max(int(options.seconds / seconds), 1)
    config = configuration(name, options, steps)
    contestant, wall = CONTESTANTS[name](config), time.perf_counter()
    _, cpu = loop(contestant, config, dataset)
    wall = time.perf_counter() - wall
    return Outcome(contestant.teacher(options.folder), steps * config.schedule.batch_size, cpu, wall)


def loop(contestant: Any, config: TrainConfig, dataset: ImageDataset) -> tuple[int, float]:
    """All steps of a run, and the CPU time that they took from the first batch on."""
    with closing(batches(config, dataset, 0, CPU)) as stream:
        batch = next(stream)
        began = time.process_time()
        for step in range(config.schedule.steps):
            contestant.step(batch, step)
            if step + 1 < config.schedule.steps:
                batch = next(stream)
    return config.schedule.steps, time.process_time() - began


def hits(bank: Features, queries: Features) -> Tensor:
    """Which queries k-NN names rightly, as 0 and 1."""
    assert bank.labels is not None
    assert queries.labels is not None
    classes = int(bank.labels.max()) + 1
    scores = knn_scores(bank.cls, bank.labels, queries.cls, classes, [NEIGHBORS])
    return (scores[min(NEIGHBORS, len(bank))].argmax(dim=1) == queries.labels).double()


def paired(one: Tensor, other: Tensor) -> tuple[float, float, float]:
    """Mean difference and its 95 % interval, the same images resampled for both."""
    generator = torch.Generator().manual_seed(0)
    gap, count = one - other, len(one)
    means = [gap[torch.randint(count, (count,), generator=generator)].mean() for _ in range(RESAMPLES)]
    low, high = torch.stack(means).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return float(gap.mean()), low, high


def some(source: str, count: int) -> ImageDataset:
    """At most `count` images, drawn from all classes."""
    dataset = open_dataset(source)
    drawn = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))[:count]
    return dataset.subset(drawn.tolist())


def measure(options: argparse.Namespace) -> str:
    """Train both, measure all four, and say it in Markdown."""
    dataset = open_dataset(options.train)
    bank, queries = some(options.train, options.bank), some(options.test, options.queries)
    config = configuration("nexus", options, 1)
    size = config.crops.global_size

    def right(backbone: VisionTransformer) -> Tensor:
        parts = [extract(backbone, images, size=size, precision="bf16") for images in (bank, queries)]
        return hits(*parts)

    rows = {
        "raw pixels, 32 × 32": (hits(raw_pixels(bank), raw_pixels(queries)), None),
        "untrained backbone": (right(build_state(config, CPU).model.teacher_backbone), None),
    }
    for name in CONTESTANTS:
        outcome = train(name, options, dataset)
        rows[name] = right(outcome.backbone), outcome
        print(
            f"{name}: {rows[name][0].mean():.4f}  {outcome.images} images {outcome.cpu_seconds:.0f} s",
            flush=True,
        )
    budget = f"{options.seconds:g} s of CPU time" if options.equal == "time" else f"{options.images:,} images"
    lines = [
        f"## {options.title}: the same {budget} each",
        "",
        f"Command: `python -m benchmarks.versus_lightly {options.typed}`  ",
        f"{datetime.date.today().isoformat()}, {hardware()}, one thread, recipe `{options.recipe}`, seed "
        f"{options.seed}. Bank {len(bank):,} training images, {len(queries):,} test images.",
        "",
        "| features | k-NN, % | images | CPU s | by the clock, s |",
        "|---|---:|---:|---:|---:|",
        *(_row(name, *row) for name, row in rows.items()),
        "",
    ]
    for other in ("lightly", "raw pixels, 32 × 32"):
        mean, low, high = (100 * value for value in paired(rows["nexus"][0], rows[other][0]))
        lines.append(f"* nexus against {other}: {mean:+.1f} points ({low:+.1f} to {high:+.1f}, paired).")
    return "\n".join([*lines, ""])


def _row(name: str, right: Tensor, outcome: Outcome | None) -> str:
    low, high = (100 * value for value in bootstrap_interval(right))
    cells = [name, f"{100 * float(right.mean()):.1f} ({low:.1f} – {high:.1f})"]
    if outcome:
        cells += [f"{outcome.images:,}", f"{outcome.cpu_seconds:.0f}", f"{outcome.wall_seconds:.0f}"]
    return f"| {' | '.join([*cells, '', '', ''][:5])} |"


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, add to a file."""
    import shlex
    import sys

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--train", required=True, help="images to train on; their labels fill the bank")
    parser.add_argument("--test", required=True, help="labelled images that nobody trains on")
    parser.add_argument("--title", default="versus lightly")
    parser.add_argument("--recipe", default="cifar10-cpu")
    parser.add_argument("--set", nargs="*", default=[], help="settings of both, key=value")
    parser.add_argument("--equal", default="time", choices=["time", "images"])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--images", type=int, default=64_000)
    parser.add_argument("--bank", type=int, default=10_000)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--prototypes", type=int, default=Lightly.prototypes, help="of lightly's head")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("runs"), help="where lightly's weights are left")
    parser.add_argument("--out", type=Path, help="Markdown file to append to")
    options = parser.parse_args(arguments)
    options.typed = shlex.join(sys.argv[1:] if arguments is None else arguments)
    Lightly.prototypes = options.prototypes
    options.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    text = measure(options)
    print(text)
    if options.out:
        with options.out.open("a", encoding="utf-8") as file:
            file.write(text + "\n")


if __name__ == "__main__":
    main()
