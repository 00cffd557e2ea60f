"""The student's pass, forward and backward: all crops together, or first the global and then the local ones.

    python -m benchmarks.packed_crops --rounds 12                        # ViT-S/16, batch 8
    python -m benchmarks.packed_crops --recipe demo --rounds 100         # the model of `nexus demo`

What both give is the same (tests/models/test_packed_crops.py). One thread, CPU time; the two take turns, the
first one changing from round to round, on the same crops and masks. Reported is the median of the rounds'
ratios, with the middle half of them.
"""

import argparse
import datetime
import statistics
import time

import numpy as np
import torch
from torch import Tensor

from benchmarks.seed_head import hardware
from benchmarks.train import batch_of
from nexus.config import build, from_dotted, merge
from nexus.data.batch import Batch
from nexus.training.config import TrainConfig
from nexus.training.memory import keep_freed_memory
from nexus.training.recipes import read_recipe
from nexus.training.state import build_state, vit_config
from nexus.training.step import autocast

S16 = {"model.arch": "vit_small_patch16", "crops.local_size": 96, "schedule.batch_size": 8}


def together(backbone: torch.nn.Module, batch: Batch) -> list[Tensor]:
    """What the student reads, in one pass."""
    crops = [batch.global_crops, batch.local_crops]
    pairs = backbone.read_list(crops, [batch.masks.grid, None], [batch.masks.index, None])
    return [part for pair in pairs for part in pair]


def apart(backbone: torch.nn.Module, batch: Batch) -> list[Tensor]:
    """The same in two."""
    first = backbone.read(batch.global_crops, batch.masks.grid, batch.masks.index)
    return [*first, *backbone.read(batch.local_crops)]


def main() -> None:
    """Measure and print one line for each precision."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--recipe", help="settings of a recipe in place of ViT-S/16")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--drop-path", type=float, default=0.1)
    parser.add_argument("--precisions", nargs="+", default=["bf16", "fp32"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    base = read_recipe(options.recipe) if options.recipe else {}
    settings = {} if options.recipe else S16
    few = {"model.drop_path_rate": options.drop_path, "objective.out_dim": 64, "schedule.steps": 1000}
    config = build(TrainConfig, merge(base, from_dotted({**settings, **few, "compute.device": "cpu"})))
    device = torch.device("cpu")
    backbone = build_state(config, device).model.student_backbone
    patch = vit_config(config.model, config.crops.global_size).patch_size
    name = options.recipe or "ViT-S/16, 2 × 224 + 8 × 96, batch 8"
    print(f"{name}, drop path {options.drop_path:g}. {hardware()}. torch {torch.__version__}. ", end="")
    print(f"{datetime.date.today().isoformat()}, {options.rounds} rounds.")
    for precision in options.precisions:
        times: dict[str, list[float]] = {"together": [], "apart": []}
        for turn in range(options.rounds + 1):
            batch = batch_of(config, patch, turn)
            ways = [together, apart] if turn % 2 else [apart, together]
            for way in ways:
                torch.manual_seed(turn)
                backbone.zero_grad(set_to_none=True)
                began = time.process_time()
                with autocast(device, precision):
                    loss = sum(part.float().square().sum() for part in way(backbone, batch))
                loss.backward()
                if turn:
                    times[way.__name__].append(time.process_time() - began)
        ratios = [a / b for a, b in zip(times["apart"], times["together"], strict=True)]
        low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
        seconds = {way: f"{statistics.median(found):.3f} s" for way, found in times.items()}
        print(
            f"{precision}: {seconds}; together is {middle:.3f} times as fast ({low:.3f} – {high:.3f})",
            flush=True,
        )


if __name__ == "__main__":
    main()
