"""What is to be written, checked before anything is."""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from nexus.errors import ConfigError, RunError, choose, unknown
from nexus.exporting.graph import Scaling
from nexus.exporting.outputs import Output, parse_outputs
from nexus.models.vision import VisionTransformer, ViTConfig

Format = Literal["onnx", "torch_export", "torchscript"]
Dynamic = Literal["batch", "hw", "all", "none"]
Precision = Literal["fp32", "fp16"]

ENDINGS: dict[str, tuple[str, ...]] = {
    "onnx": (".onnx",),
    "torch_export": (".pt2",),
    "torchscript": (".pt", ".ts", ".torchscript"),
}
"""Formats, and how the names of their files end."""

PACKAGES: dict[Format, tuple[str, ...]] = {
    "onnx": ("onnx", "onnxscript"),
    "torch_export": (),
    "torchscript": (),
}
"""What a format needs beyond torch to be written."""

OPSET, OLDEST_OPSET, NEWEST_OPSET = 20, 18, 23
"""The ONNX opset without a wish, and those that PyTorch's exporter writes."""

SMALLEST_GRID = 2
"""Patches on a side that a dynamic graph takes at least: exporters treat 1 as a special case."""


@dataclass(frozen=True)
class Plan:
    """What is to be written."""

    format: Format
    outputs: tuple[Output, ...]
    patch: int
    size: tuple[int, int] | None
    """Height and width that the graph is made for; None for any."""
    any_batch: bool
    """Whether the graph takes any number of images; otherwise one."""
    precision: Precision
    opset: int | None
    """For ONNX only."""
    pixels: tuple[tuple[float, ...], tuple[float, ...]] | None
    """Mean and std of a graph that normalises, else None."""
    scaling: Scaling | None
    """What such a graph takes."""

    @property
    def grid(self) -> tuple[int, int] | None:
        """Rows and columns of a fixed size."""
        return None if self.size is None else (self.size[0] // self.patch, self.size[1] // self.patch)


def make_plan(
    model: VisionTransformer,
    *,
    format: str,
    outputs: str | Sequence[str],
    size: int | str | Sequence[int] | None = None,
    dynamic: str | None = None,
    precision: str = "fp32",
    opset: int | None = None,
    normalize: str | None = None,
) -> Plan:
    """The plan for what a user asked for; a `ConfigError` for what cannot be, or does not go together."""
    config = model.config
    chosen = _known(format, get_args(Format), "format")
    mode = _known(dynamic or ("all" if size is None else "batch"), get_args(Dynamic), "dynamic")
    any_size = mode in ("hw", "all")
    if any_size and size is not None:
        raise ConfigError(
            f"size={size} fixes height and width, but dynamic={mode} leaves them open; leave one of them out"
        )
    return Plan(
        format=chosen,
        outputs=parse_outputs(outputs, config),
        patch=config.patch_size,
        size=None if any_size else _size(size, config),
        any_batch=mode in ("batch", "all"),
        precision=_known(precision, get_args(Precision), "precision"),
        opset=_opset(opset, chosen),
        pixels=None if normalize is None else _pixels(model),
        scaling=None if normalize is None else _known(normalize, get_args(Scaling), "normalize"),
    )


def check_out(out: Path, format: str, overwrite: bool) -> None:
    """Refuse an ending that belongs to another format, or a file in the way."""
    endings = choose(format, ENDINGS, "format")
    if out.suffix.lower() not in endings:
        raise ConfigError(
            f"{out.name} does not end as a file of format {format} should; use {out.stem}{endings[0]}"
        )
    if overwrite:
        return
    for path in beside(out):
        if path.exists():
            raise RunError(f"{path} exists; choose another --out, or replace it with --overwrite")


def beside(out: Path) -> tuple[Path, Path, Path]:
    """The files that an export may leave: weights of large models, description, and the graph itself."""
    return out.with_name(f"{out.name}.data"), out.with_name(f"{out.name}.json"), out


def check_packages(format: Format) -> None:
    """Refuse a format whose packages are not installed."""
    missing = [name for name in PACKAGES[format] if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"format={format} needs {' and '.join(missing)}, which "
            f'{"is" if len(missing) == 1 else "are"} not installed; pip install "nexus[export]"'
        )


def _known(name: str, names: Sequence[str], what: str) -> "Literal":  # type: ignore[valid-type]
    if name not in names:
        raise ConfigError(unknown(what, name, names))
    return name


def _size(size: int | str | Sequence[int] | None, config: ViTConfig) -> tuple[int, int]:
    """Height and width, whole patches; without a wish those of the model."""
    patch = config.patch_size
    if size is None:
        size = config.img_size // patch * patch
    try:
        sides = [int(side) for side in (str(size).split(",") if isinstance(size, int | str) else size)]
        height, width = sides * 2 if len(sides) == 1 else sides
    except ValueError:
        raise ConfigError(f"size={size} should be one number or H,W, such as 448 or 448,640") from None
    if min(height, width) < patch or height % patch or width % patch:
        nearest = [max(1, round(side / patch)) * patch for side in (height, width)]
        raise ConfigError(
            f"size={height},{width} is not whole patches of {patch} px; use size={nearest[0]},{nearest[1]}"
        )
    return height, width


def _opset(opset: int | None, format: Format) -> int | None:
    if format != "onnx":
        if opset is not None:
            raise ConfigError(f"opset={opset} is for format=onnx only; leave it out")
        return None
    if opset is not None and not OLDEST_OPSET <= opset <= NEWEST_OPSET:
        age = "too old" if opset < OLDEST_OPSET else "too new"
        raise ConfigError(
            f"opset={opset} is {age}: PyTorch's exporter writes {OLDEST_OPSET} to {NEWEST_OPSET}; use one of "
            f"these, or leave it out for {OPSET}"
        )
    return opset or OPSET


def _pixels(model: VisionTransformer) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the model's channels."""
    mean, std = normalization(model)
    if len(mean) != model.config.in_chans:
        raise ConfigError(
            f"the model takes {model.config.in_chans} channels but knows mean and std of {len(mean)}; leave "
            "normalize out and normalise the images before"
        )
    return mean, std


def normalization(model: VisionTransformer) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std that the model carries, in 0..1; ImageNet's for a module without."""
    from nexus.data.transforms import IMAGENET_MEAN, IMAGENET_STD

    mean, std = getattr(model, "normalization", (IMAGENET_MEAN, IMAGENET_STD))
    return tuple(mean), tuple(std)
