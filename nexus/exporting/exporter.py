"""`nexus.export`: write a file for another runtime, run it there, and refuse it where it differs."""

import copy
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nexus import checkpoint
from nexus.errors import ConfigError, ExportError
from nexus.exporting import formats
from nexus.exporting.description import describe, describe_checks
from nexus.exporting.graph import ExportGraph, Part
from nexus.exporting.outputs import DEFAULT_OUTPUTS
from nexus.exporting.plan import Plan, beside, check_out, check_packages, make_plan
from nexus.exporting.verification import (
    BOUNDS,
    Check,
    Trial,
    blind_outputs,
    compare,
    make_trials,
    trial_shapes,
)
from nexus.log import logger
from nexus.models.vision import VisionTransformer

HALVES: tuple[tuple[Part, ...], ...] = ((), ("norm", "softmax"), ("norm", "softmax", "residual"))
"""What stays in float32 in a half-precision export; the next only where the one before is not good enough."""


@dataclass(frozen=True)
class ExportResult:
    """What was written, and how well it agrees with the model."""

    path: Path
    plan: Plan
    runtime: str
    """Where it was run for the comparison."""
    checks: tuple[Check, ...]
    """Every output at every shape; empty where the runtime is not installed."""
    bound: float
    """The smallest cosine that passes."""
    keep: tuple[Part, ...] = ()
    """Parts of a half-precision file that stay in float32."""
    blind: tuple[str, ...] = ()
    """Outputs that are nearly the same for all images, so that their comparison proves little."""
    files: tuple[Path, ...] = ()

    @property
    def verified(self) -> bool:
        """Whether the file was run and every output agreed."""
        return bool(self.checks) and not failures(self.checks, self.bound)


def export(
    model: str | Path | nn.Module,
    out: str | Path,
    *,
    format: str = "onnx",
    size: int | str | Sequence[int] | None = None,
    dynamic: str | None = None,
    precision: str = "fp32",
    outputs: str | Sequence[str] = DEFAULT_OUTPUTS,
    opset: int | None = None,
    normalize: str | None = None,
    images: str | Path | None = None,
    shapes: Sequence[tuple[int, int, int]] | None = None,
    encoder: str = "teacher",
    overwrite: bool = False,
) -> ExportResult:
    """Write `model` as `onnx`, `torch_export` or `torchscript`, and compare it with the model.

    `model` is anything `nexus.load` takes, or a backbone. Batch, height and width stay open unless `size`
    (a number, or height and width) fixes the image, or `dynamic` is `batch`, `hw` or `none`. `outputs` are
    names of `nexus.exporting.outputs`. `normalize` = `uint8` or `float` makes a graph that takes pixels of
    0..255. With `precision` `fp16` input and outputs stay float32.

    The file is run on photos (`images`, or packaged ones) at `shapes`, (images, height, width), or at some
    that were not traced. It gets its name only if every cosine is at least 0.999999 (fp32) or 0.999
    (fp16); otherwise `ExportError`. Without the runtime it is written unverified. `FILE.json` says how to
    use it.
    """
    out = Path(out).expanduser()
    check_out(out, format, overwrite)
    backbone, origin = _opened(model, encoder)
    plan = make_plan(
        backbone,
        format=format,
        outputs=outputs,
        size=size,
        dynamic=dynamic,
        precision=precision,
        opset=opset,
        normalize=normalize,
    )
    check_packages(plan.format)
    side = round((backbone.pos_embed.shape[1] - 1) ** 0.5)
    trials = make_trials(backbone, plan, shapes or trial_shapes(plan, side), images)
    with _folder_beside(out) as folder:
        result = _attempt(backbone, plan, trials, folder / out.name, origin)
        return _placed(result, out)


def failures(checks: Sequence[Check], bound: float) -> list[Check]:
    """Comparisons that are not good enough."""
    return [check for check in checks if not check.cosine >= bound]


def _opened(model: str | Path | nn.Module, encoder: str) -> tuple[VisionTransformer, Mapping[str, Any]]:
    """The backbone on the CPU in float32, and what is known about its weights."""
    if isinstance(model, VisionTransformer):
        return copy.deepcopy(model).cpu().float().eval(), {}
    if isinstance(model, nn.Module):
        raise ConfigError(f"a {type(model).__name__} is no backbone of nexus; pass a VisionTransformer")
    from nexus.weights import load_with_report

    backbone, report = load_with_report(model, encoder=encoder)  # type: ignore[arg-type]
    origin = dict(report.described)
    origin["provenance"] = {"source": Path(report.source).name, **origin.get("provenance", {})}
    return backbone, origin


def _attempt(
    model: VisionTransformer, plan: Plan, trials: Sequence[Trial], path: Path, origin: Mapping[str, Any]
) -> ExportResult:
    """Write and compare; in half precision with more and more in float32 until it is good enough."""
    ladder = HALVES if plan.precision == "fp16" else ((),)
    for keep in ladder:
        result = _try(model, plan, trials, path, keep, origin)
        bad = failures(result.checks, result.bound)
        if not bad:
            return result
        if keep != ladder[-1]:
            logger.warning(
                "fp16%s gives a cosine of %.6f, below %s; trying again with more in float32",
                f" with {', '.join(keep)} in float32" if keep else "",
                min(check.cosine for check in bad),
                result.bound,
            )
    raise ExportError(_refusal(result), result)


def _try(
    model: VisionTransformer,
    plan: Plan,
    trials: Sequence[Trial],
    path: Path,
    keep: tuple[Part, ...],
    origin: Mapping[str, Any],
) -> ExportResult:
    """Write the file and its description, and compare; half precision is tried in PyTorch first."""
    graph, bound, runtime = _graph(model, plan, keep), BOUNDS[plan.precision], formats.runtime(plan)
    blind = tuple(blind_outputs(trials, plan.outputs, bound))
    if plan.precision == "fp16":
        # PyTorch keeps every step in half precision; runtimes for CPUs often compute in float32.
        checks = compare(formats.torch_runner(graph), trials, plan.outputs)
        if failures(checks, bound):
            return ExportResult(path, plan, f"torch {torch.__version__}", tuple(checks), bound, keep, blind)
    description = describe(model, plan, path, keep, origin)
    formats.write(graph, plan, path, description)
    runner = formats.open_runner(plan, path)
    checks = [] if runner is None else compare(runner, trials, plan.outputs)
    description["verification"] = describe_checks(checks, runtime, bound, blind)
    checkpoint.write_atomic(beside(path)[1], json.dumps(description, indent=2) + "\n")
    return ExportResult(path, plan, runtime, tuple(checks), bound, keep, blind)


def _graph(model: VisionTransformer, plan: Plan, keep: Sequence[Part]) -> ExportGraph:
    dtype = torch.float16 if plan.precision == "fp16" else torch.float32
    graph = ExportGraph(model, plan.outputs, grid=plan.grid, dtype=dtype, keep=keep, pixels=plan.pixels)
    return graph.eval()


def _refusal(result: ExportResult) -> str:
    bad = failures(result.checks, result.bound)
    worst = min(bad, key=lambda check: check.cosine)
    cure = "export with --precision fp32" if result.plan.precision == "fp16" else "please report it"
    return (
        f"{result.path.name} does not compute what the model does, so it was not kept: output {worst.output} "
        f"at {worst.shape[1]} × {worst.shape[2]} px has cosine {worst.cosine:.6f}, below {result.bound}, "
        f"in {result.runtime} ({len(bad)} of {len(result.checks)} comparisons failed); {cure}"
    )


@contextmanager
def _folder_beside(out: Path) -> Iterator[Path]:
    """A hidden folder next to `out`, removed in the end: what is refused or interrupted leaves nothing."""
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _placed(result: ExportResult, out: Path) -> ExportResult:
    """Move the files to their names, the graph last; a file of an older export that is no more goes."""
    placed = []
    for source, target in zip(beside(result.path), beside(out), strict=True):
        if source.exists():
            os.replace(source, target)
            placed.append(target)
        else:
            target.unlink(missing_ok=True)
    return replace(result, path=out, files=tuple(placed))
