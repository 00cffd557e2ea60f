"""The official head beside the seed's: the same training twice, only the head differs.

The seed document normalises the K prototype logits themselves; the official code normalises a narrow
bottleneck before them. This trains both on the demo's images, from the same weights, with the same crops,
masks and rates, and writes what happened::

    python -m benchmarks.seed_head                                 # 65,536 prototypes, 30 steps
    python -m benchmarks.seed_head --steps 2 --prototypes 512      # does it run?

The seed's student cannot be sure of anything. Its logits form a vector of length 1, so over K prototypes,
at student temperature t::

    p_max  = 1 / (1 + (K - 1) · exp(-sqrt(K / (K - 1)) / t))       ≈ e^10 / (e^10 + K - 1) at t = 0.1
    loss  >= -ln(p_max)                                            whatever the teacher asks

The official logits are cosines times a gain per prototype that starts at 1 and is trained.
"""

import argparse
import datetime
import math
import platform
import shlex
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nexus.config import build, from_dotted, merge
from nexus.data.datasets import ImageDataset, open_dataset
from nexus.demo import demo_data
from nexus.evals import evaluate_knn, labelled_splits
from nexus.features import extract
from nexus.training import TrainConfig
from nexus.training.config import Schedules
from nexus.training.loop import batches
from nexus.training.recipes import read_recipe
from nexus.training.state import TrainState, build_state
from nexus.training.step import train_step

HEADS = {"official": "weight_norm", "seed": "seed"}
CPU = torch.device("cpu")
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Trained:
    """What one training left: a row of numbers per step, and the k-NN result before and after."""

    rows: list[dict[str, float]]
    before: dict[str, Any]
    after: dict[str, Any]
    head_parameters: int
    seconds: float


def best_probability(prototypes: int, temperature: float = 0.1) -> float:
    """The largest probability that logits of length 1 can give to one of `prototypes`."""
    gap = math.sqrt(prototypes / (prototypes - 1)) / temperature
    return 1.0 / (1.0 + (prototypes - 1) * math.exp(-gap))


def configuration(options: argparse.Namespace, head: str) -> TrainConfig:
    """The demo's recipe with big heads and a small batch; nothing but `head_output` depends on `head`."""
    small = {
        "seed": options.seed,
        "objective.head_output": HEADS[head],
        "objective.out_dim": options.prototypes,
        "objective.hidden_dim": 2048,
        "objective.bottleneck_dim": 256,
        "crops.local_number": options.local_crops,
        "schedule.steps": options.steps,
        "schedule.batch_size": options.batch_size,
        "optim.warmup_steps": options.steps // 10,
        # The seed's head has no layer of this name, so freezing it would favour one of the two.
        "optim.freeze_last_layer_steps": 0,
        **({"optim.lr": options.lr} if options.lr else {}),
    }
    return build(TrainConfig, merge(read_recipe("demo"), from_dotted(small)))


def knn(state: TrainState, config: TrainConfig) -> dict[str, Any]:
    """k-NN of the teacher on the demo's test images, from its training images."""
    train, test, _ = labelled_splits(demo_data())
    size = config.crops.global_size
    backbone = state.model.teacher_backbone
    return evaluate_knn(extract(backbone, train, size=size), extract(backbone, test, size=size))


def train_with(head: str, options: argparse.Namespace, dataset: ImageDataset) -> Trained:
    """Train with one of the heads and measure on the way."""
    config = configuration(options, head)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*output='seed'.*")
        state = build_state(config, CPU)
    before = knn(state, config)
    schedules, rows, start = Schedules(config), [], time.monotonic()
    for step, batch in enumerate(batches(config, dataset, state.step, CPU)):
        torch.manual_seed(config.seed + step)
        metrics = train_step(
            state.model,
            [batch],
            state.optimizer,
            state.scaler,
            schedules.at(step),
            precision="fp32",
            clip=config.optim.clip_grad,
        )
        rows.append(row(step + 1, metrics))
        sys.stderr.write(f"{head}  {rows[-1]}\n")
    seconds = time.monotonic() - start
    parameters = sum(p.numel() for p in state.model.student_head.parameters())
    return Trained(rows, before, knn(state, config), parameters, seconds)


def row(step: int, metrics: dict[str, torch.Tensor]) -> dict[str, float]:
    """The numbers of one step that the report shows."""
    values = {name: float(value) for name, value in metrics.items()}
    return {
        "step": step,
        "cross_entropy": values["loss/dino_global"] + values.get("loss/dino_local", 0.0),
        "entropy": values["teacher/entropy"],
        "backbone": values["grad_norm/backbone"],
        "head": values["grad_norm/head"],
    }


def report(options: argparse.Namespace, trained: dict[str, Trained]) -> str:
    """The result as Markdown."""
    prototypes = options.prototypes
    largest = best_probability(prototypes)
    config = configuration(options, "official")
    side, local = config.crops.global_size, config.crops.local_size
    lines = [
        "# The official head and the seed's, side by side",
        "",
        f"Command: `python -m benchmarks.seed_head {shlex.join(options.typed)}`".rstrip(" `") + "`  ",
        f"Date: {datetime.date.today().isoformat()}. Hardware: {hardware()}. torch {torch.__version__}.  ",
        f"Data: {len(open_dataset(demo_data(), 'train'))} demo images. {options.steps} steps of "
        f"{options.batch_size} images, 2 crops of {side} px and {options.local_crops} of {local} px, "
        f"{config.model.arch} of width {config.model.embed_dim} and depth {config.model.depth}, hidden width "
        f"2048, peak learning rate {config.optim.peak_lr(options.batch_size):.2g}, seed {options.seed}.",
        "",
        f"* {prototypes:,} prototypes: ln K = {math.log(prototypes):.4f}, the cross-entropy of a student "
        "that gives every prototype the same probability.",
        f"* The seed's student can give one prototype at most {largest:.4f}, so its cross-entropy cannot "
        f"fall below {-math.log(largest):.4f}. The official head also starts with logits within ±1 "
        "(cosines), but it learns a gain for each prototype, so its bound moves.",
        *(
            f"* {name} head: {run.head_parameters:,} parameters, {run.seconds:.0f} s of training."
            for name, run in trained.items()
        ),
        "",
        *step_table(trained),
        "",
        "Cross-entropy: mean over all pairs of different crops (DINO loss). Entropy: of the teacher's "
        "targets, in nats; ln K is uniform, 0 is one-hot. Norms: of the gradient, before clipping.",
        "",
        *knn_table(trained),
    ]
    return "\n".join(lines) + "\n"


def step_table(trained: dict[str, Trained]) -> list[str]:
    """About ten steps of both trainings, side by side."""
    columns = {
        "cross_entropy": "cross-entropy",
        "entropy": "teacher entropy",
        "backbone": "gradient norm, backbone",
        "head": "gradient norm, head",
    }
    names = [f"{title}: {head}" for title in columns.values() for head in trained]
    lines = ["| step | " + " | ".join(names) + " |", "|" + "---:|" * (len(names) + 1)]
    count = len(next(iter(trained.values())).rows)
    shown = sorted({round(i * (count - 1) / 9) for i in range(10)})
    for index in shown:
        cells = [f"{run.rows[index][key]:.4g}" for key in columns for run in trained.values()]
        lines.append(f"| {index + 1} | " + " | ".join(cells) + " |")
    return lines


def knn_table(trained: dict[str, Trained]) -> list[str]:
    """k-NN accuracy of the teacher before and after, with intervals."""
    first = next(iter(trained.values()))
    lines = [
        f"k-NN of the teacher, k = {first.before['headline_k']}, {first.before['samples']} test images, "
        f"chance {100 * first.before['chance']:.0f} %:",
        "",
        "| head | before | after | 95 % interval after |",
        "|---|---:|---:|---:|",
    ]
    for name, run in trained.items():
        low, high = (100 * bound for bound in run.after["interval"])
        cells = f"{100 * run.before['top1']:.1f} % | {100 * run.after['top1']:.1f} % | {low:.1f} – {high:.1f}"
        lines.append(f"| {name} | {cells} |")
    return lines


def hardware() -> str:
    """Processor and threads."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = models[0] if models else platform.processor() or platform.machine()
    return f"{len(models) or '?'} CPU cores ({name}), threads used: {torch.get_num_threads()}, no GPU"


def main(arguments: Sequence[str] | None = None) -> Path:
    """Run both trainings and write the report; the path of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--prototypes", type=int, default=65536)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--local-crops", type=int, default=2)
    parser.add_argument("--lr", type=float, default=0.0, help="before the rule of the batch; 0: the demo's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the result")
    options = parser.parse_args(arguments)
    options.typed = list(sys.argv[1:] if arguments is None else arguments)
    dataset = open_dataset(demo_data(), "train")
    trained = {head: train_with(head, options, dataset) for head in HEADS}
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"seed_head_{datetime.date.today().isoformat()}.md"
    path.write_text(report(options, trained), encoding="utf-8")
    sys.stderr.write(f"{path}\n")
    return path


if __name__ == "__main__":
    main()
