"""Does the file compute what the model computes? Photos through both, at sizes that were not traced.

The model's side goes through its own methods, not through the exported graph's code, so a mistake in that
shows. For each output: the largest and the mean absolute difference, and the smallest cosine between a
feature vector (of an image or of a patch) and the model's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nexus.data.batch import normalize
from nexus.exporting.formats import Runner
from nexus.exporting.outputs import Output
from nexus.exporting.photos import photos
from nexus.exporting.plan import Plan, Precision, normalization
from nexus.models.vision import VisionTransformer

BOUNDS: dict[Precision, float] = {"fp32": 0.999999, "fp16": 0.999}
"""The smallest cosine of a good export.

Good float32 exports are within 1e-10 of 1. Resizing the position table in the wrong mode costs patches
some percent, but CLS of a small model only 1e-5, and an export may have no other output.
"""

GRIDS = ((7, 7), (16, 11), (12, 17), (2, 23), (9, 8))
"""Patches down and across at which a dynamic graph is tried, besides the model's own; none is traced."""
BATCHES = (1, 3, 2)


@dataclass(frozen=True)
class Trial:
    """Images, and what the model makes of them."""

    images: Tensor
    """As the graph takes them."""
    expected: dict[str, np.ndarray]


@dataclass(frozen=True)
class Check:
    """One output at one shape of images."""

    output: str
    shape: tuple[int, int, int]
    """Images, height, width."""
    max_error: float
    mean_error: float
    cosine: float
    """The smallest over all feature vectors; 0 where something is not finite."""


def trial_shapes(plan: Plan, own_grid: int) -> list[tuple[int, int, int]]:
    """(images, height, width) of the trials of a graph: batches and, where it takes any, sizes."""
    if plan.grid is not None:
        grids = [plan.grid] * len(BATCHES)
    else:
        grids = [(own_grid, own_grid), *GRIDS]
    batches = [BATCHES[index % len(BATCHES)] if plan.any_batch else 1 for index in range(len(grids))]
    return [
        (batch, rows * plan.patch, cols * plan.patch)
        for batch, (rows, cols) in zip(batches, grids, strict=True)
    ]


def make_trials(
    model: VisionTransformer,
    plan: Plan,
    shapes: Sequence[tuple[int, int, int]],
    source: str | Path | None = None,
) -> list[Trial]:
    """Photos of `source`, or packaged ones, at `shapes`, and the features of `model` for them."""
    chans = model.config.in_chans
    mean, std = (
        torch.tensor([values[chan % len(values)] for chan in range(chans)]) for values in normalization(model)
    )
    trials, first = [], 0
    for count, height, width in shapes:
        pixels = photos(source, first, count, height, width, chans)
        first += count
        normalized = normalize(pixels, mean, std)
        raw = pixels if plan.scaling == "uint8" else pixels.float()
        images = normalized if plan.scaling is None else raw
        trials.append(Trial(images, expected_features(model, normalized, plan.outputs)))
    return trials


@torch.no_grad()
def expected_features(
    model: VisionTransformer, images: Tensor, outputs: Sequence[Output]
) -> dict[str, np.ndarray]:
    """The outputs as the model itself computes them, by name."""
    found = {}
    for output in outputs:
        if output.kind == "registers":
            found[output.name] = model.forward_features(images)["x_norm_regtokens"]
            continue
        (patches, cls), *_ = model.get_intermediate_layers(
            images, [output.block], reshape=output.kind == "patch_map", return_class_token=True
        )
        if output.kind == "cls":
            found[output.name] = cls
        else:
            found[output.name] = patches.mean(dim=1) if output.kind == "mean_patch" else patches
    return {name: value.numpy() for name, value in found.items()}


def compare(runner: Runner, trials: Sequence[Trial], outputs: Sequence[Output]) -> list[Check]:
    """Run every trial and measure every output, in that order."""
    checks = []
    for trial in trials:
        results = runner(trial.images)
        batch, _, height, width = trial.images.shape
        for output, result in zip(outputs, results, strict=True):
            expected = trial.expected[output.name]
            assert result.shape == expected.shape, f"{output.name}: {result.shape}, not {expected.shape}"
            error = np.abs(result.astype(np.float64) - expected)
            ours, theirs = (vectors(values, output) for values in (expected, result))
            checks.append(
                Check(
                    output.name,
                    (batch, height, width),
                    float(error.max(initial=0.0)),
                    float(error.mean()) if error.size else 0.0,
                    float(np.nan_to_num(_cosines(ours, theirs), nan=0.0).min(initial=1.0)),
                )
            )
    return checks


def blind_outputs(trials: Sequence[Trial], outputs: Sequence[Output], bound: float) -> list[str]:
    """Outputs whose comparison proves little: one constant vector for everything would pass it."""
    blind = []
    for output in outputs:
        rows = np.concatenate([vectors(trial.expected[output.name], output) for trial in trials])
        if _cosines(rows, rows.mean(axis=0, keepdims=True)).min() >= bound:
            blind.append(output.name)
    return blind


def vectors(values: np.ndarray, output: Output) -> np.ndarray:
    """The feature vectors of an output as rows, in float64."""
    rows = np.moveaxis(values, output.feature_axis, -1)
    return rows.reshape(-1, rows.shape[-1]).astype(np.float64)


def _cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosines of rows; not a number where a row is 0 or not finite."""
    with np.errstate(all="ignore"):
        return (a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
