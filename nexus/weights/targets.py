"""What `nexus convert` can write: each target's files, how its library opens them, and how a user does."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from nexus.models.vision import VisionTransformer, ViTConfig
from nexus.weights.infer import architecture_name
from nexus.weights.layouts import Resizing, huggingface, timm
from nexus.weights.loading import Normalization, load
from nexus.weights.writing import FORMAT_VERSION, write_tensors

Tokens = Callable[[Tensor], Tensor]
"""Images (batch, chans, height, width) to CLS and patches (batch, 1 + patches, dim), as ours returns them."""


class Target(ABC):
    """One ecosystem. `description` is what `nexus.weights.writing.describe` makes of the backbone."""

    library: ClassVar[str]
    """The package that opens the files."""
    endings: ClassVar[tuple[str, ...]] = ()
    """Endings of the file; none where the target is a folder."""

    def version(self) -> str | None:
        """Name and version of the library, or `None` where it is not installed."""
        found = find_spec(self.library)
        if found is None or found.origin is None:  # a mere folder of that name has no origin
            return None
        try:
            return f"{self.library} {metadata.version(self.library)}"
        except metadata.PackageNotFoundError:
            return self.library

    def refusal(self, config: ViTConfig) -> str | None:
        """Why the target cannot hold such a backbone, if it cannot."""
        return None

    def resizing(self, config: ViTConfig) -> Resizing:
        """How the library resizes positions of such a backbone."""
        return Resizing.of(config)

    @abstractmethod
    def write(self, model: VisionTransformer, path: Path, description: dict[str, Any]) -> None:
        """Write the file `path`, or the files of the folder `path`, which exists."""

    @abstractmethod
    def reopen(self, path: Path, model: VisionTransformer) -> Tokens:
        """What was written, opened strictly by the library."""

    @abstractmethod
    def command(self, path: Path, config: ViTConfig, normalization: Normalization) -> str:
        """The Python line that opens it."""


class Nexus(Target):
    """Our own folder: `model.safetensors` and `config.json`."""

    library = "nexus"

    def version(self) -> str | None:
        """Always there."""
        return "nexus"

    def write(self, model: VisionTransformer, path: Path, description: dict[str, Any]) -> None:
        """As `save_backbone` does."""
        header = {"format": "nexus", "version": str(FORMAT_VERSION), "config": json.dumps(description)}
        write_tensors(model.state_dict(), path / "model.safetensors", header)
        _write_json(path / "config.json", description)

    def reopen(self, path: Path, model: VisionTransformer) -> Tokens:
        """By `nexus.load`."""
        return load(path)

    def command(self, path: Path, config: ViTConfig, normalization: Normalization) -> str:
        """`nexus.load`."""
        return f"nexus.load({str(path)!r})"


class Hub(Target):
    """A flat `.pth` as `facebookresearch/dinov2` publishes it, with our description in a `.json` beside."""

    library = "dinov2"
    endings = (".pth", ".pt")

    def write(self, model: VisionTransformer, path: Path, description: dict[str, Any]) -> None:
        """The tensors alone; the official code loads nothing else."""
        torch.save({key: value.clone() for key, value in model.state_dict().items()}, path)
        _write_json(path.with_suffix(".json"), description)

    def reopen(self, path: Path, model: VisionTransformer) -> Tokens:
        """By the official module, whose keywords are our settings."""
        DinoVisionTransformer = import_module("dinov2.models.vision_transformer").DinoVisionTransformer
        settings = model.config.model_dump(exclude={"drop_path_rate"})
        official = DinoVisionTransformer(**settings, block_chunks=0).eval()
        official.load_state_dict(torch.load(path, map_location="cpu", weights_only=True), strict=True)

        def tokens(images: Tensor) -> Tensor:
            found = official(images, is_training=True)
            return torch.cat((found["x_norm_clstoken"].unsqueeze(1), found["x_norm_patchtokens"]), dim=1)

        return tokens

    def command(self, path: Path, config: ViTConfig, normalization: Normalization) -> str:
        """`torch.hub.load` for the released sizes, the module's constructor for others."""
        name = architecture_name(config)
        released = {
            f"vit_{size}_patch14{tail}": f"dinov2_vit{size[0]}14{'_reg' if tail else ''}"
            for size in ("small", "base", "large", "giant")
            for tail in ("", "_reg4")
        }
        if name in released and config.init_values:
            size = "" if config.img_size == 518 else f", img_size={config.img_size}"
            build = f'torch.hub.load("facebookresearch/dinov2", "{released[name]}", pretrained=False{size})'
        else:
            settings = config.model_dump(exclude={"drop_path_rate"})
            build = f"DinoVisionTransformer({_keywords(settings)}, block_chunks=0)"
        return f"model = {build}; model.load_state_dict(torch.load({str(path)!r}))"


class HuggingFace(Target):
    """A folder for `transformers.AutoModel` and `AutoImageProcessor`."""

    library = "transformers"

    def refusal(self, config: ViTConfig) -> str | None:
        """See `nexus.weights.layouts.huggingface`."""
        return huggingface.refusal(config)

    def resizing(self, config: ViTConfig) -> Resizing:
        """See `nexus.weights.layouts.huggingface`."""
        return huggingface.resizing(config)

    def write(self, model: VisionTransformer, path: Path, description: dict[str, Any]) -> None:
        """`model.safetensors`, `config.json` and `preprocessor_config.json`."""
        config, looks = model.config, description["normalization"]
        tensors = huggingface.from_official(model.state_dict(), config)
        write_tensors(tensors, path / "model.safetensors", _foreign_header(description))
        _write_json(path / "config.json", huggingface.settings_of(config))
        processor = huggingface.preprocessor_of(config, looks["mean"], looks["std"])
        _write_json(path / "preprocessor_config.json", processor)

    def reopen(self, path: Path, model: VisionTransformer) -> Tokens:
        """By `AutoModel`, which must find every tensor and no other one."""
        from transformers import AutoModel
        from transformers.utils import logging

        shows = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()
        try:
            twin, info = AutoModel.from_pretrained(path, local_files_only=True, output_loading_info=True)
        finally:
            if shows:
                logging.enable_progress_bar()
        wrong = {key: value for key, value in info.items() if value}
        if wrong:
            raise ValueError(f"transformers did not take every tensor: {wrong}")
        twin.eval()
        first = 1 + model.num_register_tokens

        def tokens(images: Tensor) -> Tensor:
            found = twin(images).last_hidden_state
            return torch.cat((found[:, :1], found[:, first:]), dim=1)

        return tokens

    def command(self, path: Path, config: ViTConfig, normalization: Normalization) -> str:
        """`AutoModel.from_pretrained`."""
        return f"transformers.AutoModel.from_pretrained({str(path)!r})"


class Timm(Target):
    """A `.safetensors` or `.pth` for `timm.create_model(..., checkpoint_path=...)`."""

    library = "timm"
    endings = (".safetensors", ".pth", ".pt")

    def refusal(self, config: ViTConfig) -> str | None:
        """See `nexus.weights.layouts.timm`."""
        return timm.refusal(config)

    def resizing(self, config: ViTConfig) -> Resizing:
        """See `nexus.weights.layouts.timm`."""
        return timm.resizing(config)

    def write(self, model: VisionTransformer, path: Path, description: dict[str, Any]) -> None:
        """timm's tensors; what it has no place for goes into the description."""
        tensors = timm.from_official(model.state_dict(), model.config)
        description = {**description, "kept": timm.kept(model.state_dict(), model.config)}
        if path.suffix == ".safetensors":
            write_tensors(tensors, path, _foreign_header(description))
        else:
            torch.save(tensors, path)
            _write_json(path.with_suffix(".json"), description)

    def reopen(self, path: Path, model: VisionTransformer) -> Tokens:
        """By `create_model`, strictly."""
        from timm import create_model

        name, keywords = timm.create_model_arguments(model.config)
        twin: Any = create_model(name, **keywords, checkpoint_path=str(path)).eval()
        first = 1 + model.num_register_tokens

        def tokens(images: Tensor) -> Tensor:
            found = twin.forward_features(images)
            return torch.cat((found[:, :1], found[:, first:]), dim=1)

        return tokens

    def command(self, path: Path, config: ViTConfig, normalization: Normalization) -> str:
        """The exact `create_model`."""
        name, keywords = timm.create_model_arguments(config)
        mean, std = normalization
        overlay = {"mean": mean, "std": std}
        text = f"timm.create_model({name!r}, {_keywords(keywords)}, checkpoint_path={str(path)!r}"
        return f"{text}, pretrained_cfg_overlay={overlay})"


TARGETS: Mapping[str, Target] = {"hub": Hub(), "hf": HuggingFace(), "timm": Timm(), "nexus": Nexus()}
"""The targets by the names that `--to` takes."""


def _foreign_header(description: Mapping[str, Any]) -> dict[str, str]:
    """Metadata of a tensor file for others: `format` is what transformers insists on."""
    return {"format": "pt", "nexus": json.dumps(description)}


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _keywords(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in values.items())
