"""Whole training steps on synthetic crops: nexus beside lightly's DINOv2 example.

    python -m benchmarks.train                                  # ViT-S/16, fp32 and bf16, 2 threads
    python -m benchmarks.train --patch 14 --local 98
    python -m benchmarks.train --rounds 1 --prototypes 1024     # does it run?

A step is teacher forward, student forward and backward, clipping (nexus), AdamW and EMA; DINO, iBOT and
KoLeo, a moving centre, shared head, drop path 0.1 (the example's). Each contestant lives in a process of its
own, so that peak memory is its own; they take turns, one step each, on the same crops and masks. Reported are
medians of wall time and of CPU time: on a machine that is shared the second says more. The matmul rate is the
best that was seen between the rounds.
"""

import argparse
import datetime
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch

from benchmarks.seed_head import hardware
from nexus.config import build, from_dotted
from nexus.data.batch import Batch, Masks
from nexus.data.masking import BlockMasker
from nexus.training.config import TrainConfig
from nexus.training.flops import step_flops
from nexus.training.throughput import matmul_rate

RESULTS = Path(__file__).parent / "results"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass
class Turns:
    """What one contestant needed, step by step."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    peak: float = 0.0
    """Largest resident set so far, MiB."""


def configuration(options: argparse.Namespace, precision: str) -> TrainConfig:
    """The settings of a nexus run that computes what the example computes."""
    return build(
        TrainConfig,
        from_dotted(
            {
                "model.arch": f"vit_small_patch{options.patch}",
                "model.drop_path_rate": options.drop_path,
                "objective.out_dim": options.prototypes,
                "crops.local_size": options.local,
                "schedule.batch_size": options.batch,
                "schedule.steps": 1000,
                "optim.freeze_last_layer_steps": 0,
                "compute.device": "cpu",
                "compute.precision": precision,
                **dict(pair.split("=", 1) for pair in options.set),
            }
        ),
    )


def batch_of(config: TrainConfig, patch: int, seed: int) -> Batch:
    """Normalised crops and masks of one step."""
    images, crops = config.schedule.batch_size, config.crops
    generator = torch.Generator().manual_seed(seed)
    side = crops.global_size // patch
    grid = BlockMasker(config.masks, side, side).batch(2 * images, np.random.default_rng(seed))
    return Batch(
        torch.randn(2 * images, 3, crops.global_size, crops.global_size, generator=generator),
        torch.randn(crops.local_number * images, 3, crops.local_size, crops.local_size, generator=generator),
        Masks.from_grid(grid),
        images,
    )


def nexus_step(options: argparse.Namespace, precision: str) -> Callable[[Batch], object]:
    """Our trainer's step."""
    from nexus.training.config import Schedules
    from nexus.training.memory import keep_freed_memory
    from nexus.training.state import build_state
    from nexus.training.step import train_step

    keep_freed_memory()  # as `nexus train` does
    config = configuration(options, precision)
    state = build_state(config, torch.device("cpu"))
    values = Schedules(config).at(500)

    def step(batch: Batch) -> object:
        return train_step(
            state.model, [batch], state.optimizer, state.scaler, values, precision=precision, clip=3.0
        )

    return step


def lightly_step(options: argparse.Namespace, precision: str) -> Callable[[Batch], object]:
    """The example's step."""
    from benchmarks.lightly_dinov2 import LightlyDINOv2

    return LightlyDINOv2(options.patch, options.prototypes, options.drop_path, precision).step


CONTESTANTS = {"lightly": lightly_step, "nexus": nexus_step}


def contestant(pipe: Connection, name: str, precision: str, options: argparse.Namespace) -> None:
    """A process that makes one step for each seed it is sent and answers with what it took."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    config = configuration(options, precision)
    step = CONTESTANTS[name](options, precision)
    while (seed := pipe.recv()) is not None:
        batch = batch_of(config, options.patch, seed)
        torch.manual_seed(seed)
        wall, cpu = time.perf_counter(), time.process_time()
        step(batch)
        times = time.perf_counter() - wall, time.process_time() - cpu
        pipe.send((*times, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


def measure(options: argparse.Namespace) -> tuple[dict[tuple[str, str], Turns], dict[str, float]]:
    """All contestants, taking turns, the first round to warm up; and the best matmul rates."""
    spawn = multiprocessing.get_context("spawn")
    pipes: dict[tuple[str, str], Connection] = {}
    for precision in options.precisions:
        for name in options.contestants:
            ours, theirs = spawn.Pipe()
            arguments = (theirs, name, precision, options)
            spawn.Process(target=contestant, args=arguments, daemon=True).start()
            pipes[name, precision] = ours
    turns = {key: Turns() for key in pipes}
    torch.set_num_threads(options.threads)
    rates: dict[str, list[float]] = {precision: [] for precision in options.precisions}
    for seed in range(options.rounds + 1):
        for key, pipe in pipes.items():
            pipe.send(seed)
            wall, cpu, peak = pipe.recv()
            sys.stderr.write(f"{key}  {wall:.2f} s  {cpu:.2f} s CPU  {peak:.0f} MiB\n")
            turns[key].peak = peak
            if seed:
                turns[key].wall.append(wall)
                turns[key].cpu.append(cpu)
        for precision, measured in rates.items():
            measured.append(matmul_rate.__wrapped__(torch.device("cpu"), DTYPES[precision], options.threads))
    for pipe in pipes.values():
        pipe.send(None)
    return turns, {precision: max(measured) for precision, measured in rates.items()}


def report(options: argparse.Namespace, turns: dict[tuple[str, str], Turns], rates: dict[str, float]) -> str:
    """The result as Markdown."""
    flops = step_flops(configuration(options, "fp32"))
    lines = [
        f"## ViT-S/{options.patch}, 2 × 224 + 8 × {options.local}, {options.prototypes:,} prototypes, "
        f"batch {options.batch}",
        "",
        f"Command: `python -m benchmarks.train {' '.join(options.typed)}`  ",
        f"Date: {datetime.date.today().isoformat()}. Hardware: {hardware()}. torch {torch.__version__}. "
        f"{options.rounds} rounds, medians; drop path {options.drop_path:g}.  ",
        f"{flops / options.batch / 1e9:.0f} GFLOP an image: matrix products that the loss needs.",
        "",
        "| | images/s | images per CPU s | GFLOP/s | measured matmul, GFLOP/s | MFU | peak memory |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for precision in options.precisions:
        rate = rates[precision]
        for name in options.contestants:
            lines.append(_row(name, precision, turns[name, precision], rate, flops, options.batch))
    lines += ["", *_ratios(options, turns), ""]
    return "\n".join(lines)


def _row(name: str, precision: str, turn: Turns, rate: float, flops: float, batch: int) -> str:
    wall, cpu = statistics.median(turn.wall), statistics.median(turn.cpu)
    return (
        f"| {name}, {precision} | {batch / wall:.3f} | {batch / cpu:.3f} | {flops / wall / 1e9:.0f} | "
        f"{rate / 1e9:.0f} | {flops / wall / rate:.0%} | {turn.peak / 1024:.2f} GiB |"
    )


def _ratios(options: argparse.Namespace, turns: dict[tuple[str, str], Turns]) -> list[str]:
    """How many times the first contestant's rate the others reach, round by round."""
    first, *others = options.contestants
    lines = []
    for precision in options.precisions:
        for name in others:
            pairs = turns[first, precision], turns[name, precision]
            wall, cpu = (
                statistics.median(a / b for a, b in zip(*(getattr(t, kind) for t in pairs), strict=True))
                for kind in ("wall", "cpu")
            )
            lines.append(
                f"* {precision}: {name} is {wall:.2f} times as fast as {first} by wall time, "
                f"{cpu:.2f} times by CPU time (medians of the rounds' ratios)."
            )
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the result, add it to the file of the day."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--patch", type=int, default=16)
    parser.add_argument("--local", type=int, default=96)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--prototypes", type=int, default=65536)
    parser.add_argument("--drop-path", type=float, default=0.1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precisions", nargs="+", default=list(DTYPES), choices=list(DTYPES))
    parser.add_argument("--contestants", nargs="+", default=list(CONTESTANTS), choices=list(CONTESTANTS))
    parser.add_argument("--set", nargs="*", default=[], help="settings of nexus, key=value")
    parser.add_argument("--out", type=Path, help="Markdown file to append to")
    options = parser.parse_args(arguments)
    options.typed = list(sys.argv[1:] if arguments is None else arguments)
    text = report(options, *measure(options))
    print(text)
    if options.out:
        with options.out.open("a", encoding="utf-8") as file:
            file.write(text + "\n")


if __name__ == "__main__":
    main()
