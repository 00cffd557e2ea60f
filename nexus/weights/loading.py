"""Backbones out of weight files: strict, explained, never random by accident.

::

    locate(source)            → a file, or an architecture (random weights, with a warning)
    read_raw, read_split      → tensors, without running code
    backbone_tensors(raw)     → official key names, whoever wrote the file
    config.json or shapes     → ViTConfig
    every tensor must be there, with its shape; the position table alone may be resized
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nexus.config import build
from nexus.data.picture import RGB, Look
from nexus.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from nexus.errors import ConfigError, WeightsError
from nexus.models.vision import VisionTransformer, ViTConfig, architecture, build_backbone
from nexus.models.vision.embed import positions
from nexus.weights.channels import Source, carry_tensors
from nexus.weights.infer import architecture_name, infer_config
from nexus.weights.keys import BackboneTensors, backbone_tensors
from nexus.weights.layouts import Resizing, timm
from nexus.weights.layouts.translation import without_neutral
from nexus.weights.read import read_raw
from nexus.weights.soundness import refuse_unusable
from nexus.weights.source import Encoder, locate
from nexus.weights.split import INDEX, Foreign, read_foreign, read_split

Normalization = tuple[tuple[float, ...], tuple[float, ...]]

log = logging.getLogger(__name__)

_SHOWN = 4
_TRAINING_ONLY = {"img_size", "drop_path_rate", "init_values", "interpolate_antialias", "interpolate_offset"}


@dataclass(frozen=True)
class LoadReport:
    """What came out of a weight file; `str(report)` is one line for people."""

    source: str
    config: ViTConfig
    """The architecture in the file, before anything was resized."""
    tensors: int
    """Tensors of the backbone that were loaded: all of them, or there would have been an error."""
    parameters: int
    dtype: str
    """As stored; they are loaded as float32."""
    layout: str
    resized: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    """Keys in the file that belong to no backbone: heads, the other encoder."""
    filled: tuple[str, ...] = ()
    """What the file lacks and what stands there instead, one sentence each."""
    notes: tuple[str, ...] = ()
    """What a user of the library that wrote the file should know."""
    normalization: Normalization = (IMAGENET_MEAN, IMAGENET_STD)
    """Mean and standard deviation of the channels, in 0..1; ImageNet's where the file says nothing."""
    look: Look = RGB
    """How image files become the pixels that the backbone was trained on."""
    described: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """`config.json` of a file that nexus wrote."""

    @property
    def random(self) -> bool:
        """Whether there was no file, so that the weights mean nothing."""
        return self.tensors == 0

    def __str__(self) -> str:
        if self.random:
            return f"{self.source}: random weights"
        text = f"loaded {self.tensors}/{self.tensors} backbone tensors from {self.source}"
        if self.dropped:
            text += f"; left aside {len(self.dropped)} others ({_some(self.dropped)})"
        stored = () if self.dtype == "float32" else (f"stored as {self.dtype}, loaded as float32",)
        return "; ".join((text, *self.filled, *stored, *self.resized, *self.notes))


def load(
    source: str | Path,
    *,
    encoder: Encoder = "teacher",
    img_size: int | None = None,
    in_chans: int | None = None,
    channels: Sequence[Source] | None = None,
    device: str | torch.device = "cpu",
) -> VisionTransformer:
    """The backbone that `source` names, in eval mode and float32; see `load_with_report`."""
    return load_with_report(
        source, encoder=encoder, img_size=img_size, in_chans=in_chans, channels=channels, device=device
    )[0]


def load_with_report(
    source: str | Path,
    *,
    encoder: Encoder = "teacher",
    img_size: int | None = None,
    in_chans: int | None = None,
    channels: Sequence[Source] | None = None,
    device: str | torch.device = "cpu",
) -> tuple[VisionTransformer, LoadReport]:
    """The backbone that `source` names, and what was read.

    `source` is a run folder, a Hugging Face folder, a weight file of any layout in `nexus.weights.layouts`, a
    hub name, or the name of an architecture (random weights; a warning says so).
    `encoder` chooses the teacher or the student where there are both. `img_size` resizes the position table
    once; without it the model does so for every image size that differs. `in_chans` and `channels` make it
    take other images than RGB, by the rules of `nexus.weights.channels`. The model carries
    `normalization = (mean, std)` and `look`. Raises `WeightsError` for anything but an exact fit.
    """
    if encoder not in ("teacher", "student"):
        raise ConfigError(f"encoder={encoder!r} is unknown; use 'teacher' (the better one) or 'student'")
    if locate(source, encoder).path is None:
        model, report = _random(str(source), img_size)
        config, tensors, resized = model.config, dict(model.state_dict()), report.resized
    else:
        tensors, report = _read(source, encoder)
        config, tensors, resized = _resize(report.config, tensors, img_size)
    tensors, normalization, carried = carry_tensors(tensors, report.normalization, in_chans, channels)
    config = config.model_copy(update={"in_chans": tensors["patch_embed.proj.weight"].shape[1]})
    model = assemble(config, tensors)
    report = replace(report, resized=resized if carried is None else (*resized, carried))
    look = report.look if config.in_chans == report.config.in_chans else RGB
    tell_input(model, normalization, look)
    return model.to(device).eval(), report


def tell_input(model: VisionTransformer, normalization: Normalization, look: Look) -> None:
    """Let a backbone carry what it expects of images: `normalization`, and `look` with its mean as fill."""
    mean, _ = normalization
    model.normalization = normalization  # type: ignore[assignment]
    model.look = look if look == RGB else replace(look, fill=tuple(mean))  # type: ignore[assignment]


def initialise_from(
    model: VisionTransformer, source: str | Path, *, encoder: Encoder = "teacher"
) -> LoadReport:
    """Copy the backbone that `source` names into `model`, in place, for a new run (`--init`).

    The position table is resized to the model's grid where it differs, as the model itself would do for
    such images, and the patch embedding carried over to its number of channels (`nexus.weights.channels`);
    everything else must fit exactly, or a `WeightsError` lists the settings that differ.
    """
    if locate(source, encoder).path is None:
        raise WeightsError(
            f"{source!s} names an architecture, which has no weights to start from; leave --init out, or "
            "pass a run folder or a weight file"
        )
    tensors, report = _read(source, encoder)
    chans = model.config.in_chans
    tensors, _, carried = carry_tensors(tensors, report.normalization, chans)
    _refuse_differences(
        replace(report, config=report.config.model_copy(update={"in_chans": chans})), model.config
    )
    _, tensors, resized = _resize(model.config, tensors, model.config.img_size)
    with torch.no_grad():
        own = model.state_dict()
        _refuse_misfits(report.source, tensors, own)
        for key, value in own.items():
            value.copy_(tensors[key])
    return replace(report, resized=resized if carried is None else (*resized, carried))


def read_report(source: str | Path, encoder: Encoder = "teacher") -> LoadReport:
    """What a weight file holds, after checking that all of a backbone is there; nothing is built."""
    return _read(source, encoder)[1]


def _read(source: str | Path, encoder: Encoder) -> tuple[dict[str, Tensor], LoadReport]:
    """Checked float32 tensors with official names, and the report."""
    located = locate(source, encoder)
    assert located.path is not None
    path = located.path
    raw = read_split(path) if path.name.endswith(INDEX) else read_raw(path)
    found = backbone_tensors(raw, encoder)
    refuse_unusable(path, found.tensors)
    foreign = read_foreign(path) if raw.config is None else Foreign()
    if raw.config is not None:
        config = _described(path, raw.config, found.tensors)
        found = _as_described(found, raw.config)
    else:
        config = infer_config(path, found.tensors, foreign.num_heads)
    wanted = _shapes(path, config)
    found = replace(found, tensors=without_neutral(found.tensors, wanted))
    _refuse_misfits(str(path), found.tensors, wanted)
    report = _report(path, config, found, raw.config or {}, foreign)
    if located.expected is not None:
        _refuse_differences(report, located.expected)
    return {key: _plain(tensor) for key, tensor in found.tensors.items()}, report


def _report(
    path: Path,
    config: ViTConfig,
    found: BackboneTensors,
    described: Mapping[str, Any],
    foreign: Foreign,
) -> LoadReport:
    dtypes = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in found.tensors.values()})
    return LoadReport(
        source=str(path),
        config=config,
        tensors=len(found.tensors) - len(found.filled),
        parameters=sum(tensor.numel() for tensor in found.tensors.values()),
        dtype=", ".join(dtypes),
        layout=found.layout,
        dropped=found.dropped,
        filled=found.filled,
        notes=_notes(config, found.resizing),
        normalization=_normalization(described or foreign.described),
        look=_look(described),
        described=described,
    )


def _random(name: str, img_size: int | None) -> tuple[VisionTransformer, LoadReport]:
    config = architecture(name, **({} if img_size is None else {"img_size": img_size}))
    log.warning("%s names an architecture, not a file: random weights, good for tests only", name)
    model = build_backbone(config)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return model, LoadReport(name, config, 0, parameters, "float32", "architecture")


def _notes(config: ViTConfig, resizing: Resizing | None) -> tuple[str, ...]:
    """A sentence where the library that wrote the file computes other features at other sizes."""
    ours = Resizing.of(config)
    if resizing is None or resizing == ours:
        return ()
    return (
        f"at other sizes than {config.img_size} px positions are resized as the weights were trained "
        f"({ours}); the library that wrote the file resizes them otherwise ({resizing})",
    )


def _described(path: Path, values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> ViTConfig:
    """The architecture that `config.json`, or the file itself, states."""
    try:
        config = build(ViTConfig, values["architecture"])
        if config.depth > len(tensors):
            raise ValueError(f"depth {config.depth} with {len(tensors)} tensors")
        return config
    except (KeyError, TypeError, ValueError, ConfigError) as error:
        raise WeightsError(
            f"the config.json of {path} does not describe a backbone of this version of nexus: {error}. "
            "Remove it to go by the shapes of the tensors, or update nexus"
        ) from None


def _normalization(described: Mapping[str, Any]) -> Normalization:
    """Mean and standard deviation of the channels, in 0..1; ImageNet's where the file says nothing."""
    values = described.get("normalization") or {}
    mean, std = values.get("mean", IMAGENET_MEAN), values.get("std", IMAGENET_STD)
    return tuple(map(float, mean)), tuple(map(float, std))


def _look(described: Mapping[str, Any]) -> Look:
    """How the pixels were read, if the file says so."""
    pixels = described.get("pixels") or {}
    if pixels.get("channels") != "native":
        return RGB
    span = pixels.get("value_range")
    return Look("native", None if span is None else (float(span[0]), float(span[1])))


def _shapes(path: Path, config: ViTConfig) -> dict[str, Tensor]:
    """Every tensor of such a backbone, without memory."""
    try:
        with torch.device("meta"):
            return build_backbone(config).state_dict()
    except (RuntimeError, OverflowError, TypeError) as error:  # sizes beyond what torch can count
        text = str(error).splitlines()[0]
        raise WeightsError(f"{path} describes a backbone that cannot be built: {text}") from None


def _as_described(found: BackboneTensors, described: Mapping[str, Any]) -> BackboneTensors:
    """With what our converter kept for the way back from a library that has no place for it."""
    kept, tensors = described.get("kept"), found.tensors
    if not isinstance(kept, Mapping) or not {"cls_token", "pos_embed"} <= tensors.keys():
        return found
    restored = timm.restore(tensors, kept)
    return found if restored is tensors else replace(found, tensors=restored, filled=())


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().to(torch.float32).contiguous()


def _resize(
    config: ViTConfig, tensors: dict[str, Tensor], img_size: int | None
) -> tuple[ViTConfig, dict[str, Tensor], tuple[str, ...]]:
    """The position table at `img_size`, resampled bicubically in the model's own mode."""
    if img_size is None:
        return config, tensors, ()
    if img_size < config.patch_size:
        raise ConfigError(f"img_size={img_size} is smaller than a patch of {config.patch_size} pixels")
    table = tensors["pos_embed"]
    old, new = round((table.shape[1] - 1) ** 0.5), img_size // config.patch_size
    config = config.model_copy(update={"img_size": img_size})
    if old == new:
        return config, tensors, ()
    table = positions(
        table, new, new, offset=config.interpolate_offset, antialias=config.interpolate_antialias
    )
    return config, {**tensors, "pos_embed": table}, (f"pos_embed: {old}×{old} → {new}×{new} (bicubic)",)


def assemble(config: ViTConfig, tensors: Mapping[str, Tensor]) -> VisionTransformer:
    """A model that takes the tensors over without drawing weights first."""
    with torch.device("meta"):
        model = build_backbone(config)
    model.load_state_dict(dict(tensors), strict=True, assign=True)
    return model.eval()


def _refuse_misfits(source: str, tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Every tensor, no other one, each with its shape."""
    missing = [key for key in wanted if key not in tensors]
    unexpected = [key for key in tensors if key not in wanted]
    shapes = [
        f"{key} is {tuple(tensors[key].shape)}, not {tuple(wanted[key].shape)}"
        for key in wanted
        if key in tensors and tensors[key].shape != wanted[key].shape
    ]
    problems = [
        f"{len(keys)} {word} ({_some(keys)})"
        for keys, word in ((missing, "missing"), (unexpected, "unexpected"), (shapes, "of another shape"))
        if keys
    ]
    if problems:
        raise WeightsError(
            f"{source} does not fit a DINOv2 backbone exactly; tensors {'; '.join(problems)}. Nothing was "
            "loaded: pass a complete backbone, or the config.json that belongs to it"
        )


def _refuse_differences(report: LoadReport, wanted: ViTConfig) -> None:
    """One line about each setting in which a file and a model differ."""
    here, there = _shape_settings(report.config), _shape_settings(wanted)
    different = [f"{key}: file {here[key]}, model {there[key]}" for key in there if here[key] != there[key]]
    if different:
        raise WeightsError(
            f"{report.source} is a {architecture_name(report.config)} and does not fit the model: "
            f"{'; '.join(different)}. Choose the model that belongs to the weights"
        )


def _shape_settings(config: ViTConfig) -> dict[str, Any]:
    """The settings that decide about names and shapes of tensors, except the size of the grid."""
    settings = config.model_dump(exclude=_TRAINING_ONLY)
    settings["ffn_layer"] = "swiglu" if config.ffn_layer.startswith("swiglu") else config.ffn_layer
    settings["mlp_ratio"] = round(config.mlp_ratio, 2)
    settings["layer scale"] = bool(config.init_values)
    return settings


def _some(names: list[str] | tuple[str, ...]) -> str:
    more = f", and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
