"""What a program needs to know to use an exported file: `FILE.json`, also kept inside the file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nexus import __version__
from nexus.data.picture import RGB
from nexus.data.transforms import EvalTransform
from nexus.exporting.formats import INPUT
from nexus.exporting.outputs import Output
from nexus.exporting.plan import SMALLEST_GRID, Plan, normalization
from nexus.exporting.verification import Check
from nexus.models.vision import VisionTransformer, ViTConfig

FORMAT_VERSION = 1
UNKNOWN_LICENCE = "not stated in the weights that were exported"

MEANING = {
    "cls": "CLS token: the image as one vector",
    "patches": "patch tokens, row by row",
    "mean_patch": "mean of the patch tokens",
    "patch_map": "patch tokens as a map",
    "registers": "register tokens",
    "layer": "patch tokens, row by row",
}


def describe(
    model: VisionTransformer, plan: Plan, out: Path, keep: Sequence[str], origin: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything about the file but how well it was verified."""
    config = model.config
    return {
        "format": "nexus-export",
        "format_version": FORMAT_VERSION,
        "file": out.name,
        "kind": plan.format,
        **({} if plan.opset is None else {"opset": plan.opset}),
        "precision": plan.precision,
        "parts_in_fp32": list(keep),
        "input": _input(plan, config),
        "preprocessing": _preprocessing(model, plan),
        "outputs": [_output(output, plan, config) for output in plan.outputs],
        "patch_size": config.patch_size,
        "architecture": config.model_dump(mode="json"),
        "licence": origin.get("licence", UNKNOWN_LICENCE),
        "provenance": {"exported_by": f"nexus {__version__}", **origin.get("provenance", {})},
    }


def describe_checks(
    checks: Sequence[Check], runtime: str, bound: float, blind: Sequence[str]
) -> dict[str, Any]:
    """How well the file was verified: the worst figures of every output."""
    worst = {}
    for name in dict.fromkeys(check.output for check in checks):
        own = [check for check in checks if check.output == name]
        worst[name] = {
            "max_error": max(check.max_error for check in own),
            "mean_error": max(check.mean_error for check in own),
            "cosine": min(check.cosine for check in own),
        }
    return {
        "verified": bool(checks),
        "runtime": runtime,
        "smallest_cosine_allowed": bound,
        "shapes": [list(shape) for shape in dict.fromkeys(check.shape for check in checks)],
        "worst": worst,
        "proves_little_for": list(blind),
    }


def _input(plan: Plan, config: ViTConfig) -> dict[str, Any]:
    ranges = {None: "normalised, see preprocessing", "uint8": "0..255", "float": "0..255"}
    height, width = plan.size or ("height", "width")
    return {
        "name": INPUT,
        "dtype": "uint8" if plan.scaling == "uint8" else "float32",
        "layout": "NCHW",
        "colour": "RGB" if config.in_chans == 3 else f"{config.in_chans} channels",
        "range": ranges[plan.scaling],
        "shape": ["batch" if plan.any_batch else 1, config.in_chans, height, width],
        "dynamic_axes": [
            *(["batch"] if plan.any_batch else []),
            *(["height", "width"] if plan.size is None else []),
        ],
        "multiple_of": config.patch_size,
        "smallest_side": SMALLEST_GRID * config.patch_size if plan.size is None else min(plan.size),
        "remainder": "pixels beyond whole patches, at the right and at the bottom, are not seen",
    }


def _preprocessing(model: VisionTransformer, plan: Plan) -> dict[str, Any]:
    """How a photo becomes an input: the transform of nexus' evaluations, or a fixed size's."""
    mean, std = normalization(model)
    if plan.size is None or plan.size[0] == plan.size[1]:
        rule = EvalTransform.for_size(plan.size[0] if plan.size else model.config.img_size)
        resize = {
            "rule": "shorter side to resize_to, then the central crop",
            "resize_to": rule.resize,
            "crop": [rule.size, rule.size],
        }
    else:
        resize = {
            "rule": "scale to cover crop, keeping the aspect, then the central crop",
            "crop": list(plan.size),
        }
    return {
        **resize,
        "interpolation": "bicubic, antialiased",
        "normalised_by": "the graph" if plan.scaling else "the caller",
        "formula": f"({_unit(model)} - mean) / std, channel by channel",
        "mean": list(mean),
        "std": list(std),
    }


def _unit(model: VisionTransformer) -> str:
    """How stored values become 0..1."""
    look = getattr(model, "look", RGB)
    if look.channels == "rgb":
        return "pixels / 255"
    if look.value_range is None:
        return "pixels / (255 of 8 bits, 65535 of 16 bits)"
    low, high = look.value_range
    return f"clip((pixels - {low:g}) / {high - low:g}, 0, 1)"


def _output(output: Output, plan: Plan, config: ViTConfig) -> dict[str, Any]:
    patch = config.patch_size
    rows, cols = plan.grid or (f"height // {patch}", f"width // {patch}")
    patches = plan.grid[0] * plan.grid[1] if plan.grid else f"({rows}) * ({cols})"
    sizes = {
        "batch": "batch" if plan.any_batch else 1,
        "dim": config.embed_dim,
        "registers": config.num_register_tokens,
        "patches": patches,
        "rows": rows,
        "cols": cols,
    }
    return {
        "name": output.name,
        "shape": [sizes[axis] for axis in output.axes],
        "axes": list(output.axes),
        "dtype": "float32",
        "meaning": f"{MEANING[output.kind]}, after block {output.block} (from 0) and the final norm",
    }
