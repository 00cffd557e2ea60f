"""Hugging Face's models as backbones: vision transformers by their blocks, CNNs by their last feature map."""

import inspect
import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nexus.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from nexus.embedding.foreign import RANDOM
from nexus.errors import WeightsError
from nexus.features.adapter import Normalization, Shown, TokenBackbone, map_tokens

log = logging.getLogger(__name__)

_FINAL_NORMS = ("layernorm", "norm", "post_layernorm")


def open_transformers(name: str, weights: str = "") -> TokenBackbone:
    """The model in a folder, or of a name on the hub; with `random` weights if these are asked for."""
    from transformers import AutoConfig, AutoModel

    if weights not in ("", RANDOM):
        raise WeightsError(f"hf:{name}@{weights}: a folder holds its weights; after @ comes only {RANDOM!r}")
    try:
        config = AutoConfig.from_pretrained(name)
        model = AutoModel.from_config(config) if weights else AutoModel.from_pretrained(name)
    except Exception as error:  # whatever transformers and a download raise
        first = " ".join(str(error).split())[:300] or type(error).__name__
        raise WeightsError(
            f"transformers cannot open {name!r}: {first}. Give a folder that save_pretrained has written,"
            " with its preprocessor_config.json"
        ) from None
    model = getattr(model, "vision_model", model).eval()  # of CLIP and the like
    if "pixel_values" not in inspect.signature(model.forward).parameters:
        raise WeightsError(f"hf:{name} is a {type(model).__name__}, which does not see images")
    vision = model.config
    shown = Shown(f"hf {type(model).__name__}", _side(vision), getattr(vision, "num_channels", 3))
    normalization = _normalization(name)
    look, blocks = _one_look(model, shown), _blocks(model)
    if look.ndim == 4:
        return TransformersCNN(model, look, shown, normalization)
    prefix = -1
    if blocks is not None and hasattr(vision, "patch_size"):
        prefix = look.shape[1] - (shown.img_size // _patch(vision)) ** 2
    if blocks is None or prefix < 0:
        raise WeightsError(
            f"{shown.name} gives neither a token for each patch nor a feature map (its last state has shape"
            f" {tuple(look.shape)}); wrap it yourself: nexus.features.TokenBackbone"
        )
    return TransformersTokens(model, blocks, prefix, shown, normalization)


class TransformersTokens(TokenBackbone):
    """A vision transformer: what its blocks give, after its final norm. Without CLS, it is the mean patch."""

    def __init__(
        self, model: Any, blocks: nn.ModuleList, prefix: int, shown: Shown, normalization: Normalization
    ) -> None:
        super().__init__(
            embed_dim=model.config.hidden_size,
            patch_size=_patch(model.config),
            n_blocks=len(blocks),
            num_register_tokens=max(0, prefix - 1),
            normalization=normalization,
            shown=shown,
        )
        self.model = model
        self.has_cls = prefix > 0
        self._path = next(path for path, module in model.named_modules() if module is blocks)
        self._norm = _final_norm(model)

    def layer_tokens(
        self, x: Float[Tensor, "batch chans height width"], blocks: Sequence[int]
    ) -> list[Float[Tensor, "batch tokens dim"]]:
        """As `TokenBackbone.layer_tokens`."""
        kept: dict[int, Tensor] = {}
        modules = self.model.get_submodule(self._path)
        hooks = [modules[block].register_forward_hook(_keeping(kept, block)) for block in set(blocks)]
        try:
            self.model(pixel_values=x, **_any_size(self.model))
        finally:
            for hook in hooks:
                hook.remove()
        norm = self.model.get_submodule(self._norm) if self._norm else nn.Identity()
        layers = [norm(kept[block]) for block in blocks]
        return layers if self.has_cls else [_with_mean(tokens) for tokens in layers]


class TransformersCNN(TokenBackbone):
    """A model whose last feature map is the patch tokens, and whose pooled output is CLS."""

    def __init__(self, model: Any, look: Tensor, shown: Shown, normalization: Normalization) -> None:
        super().__init__(
            embed_dim=look.shape[1],
            patch_size=shown.img_size // look.shape[2],
            n_blocks=1,
            num_register_tokens=0,
            normalization=normalization,
            shown=shown,
        )
        self.model = model

    def layer_tokens(
        self, x: Float[Tensor, "batch chans height width"], blocks: Sequence[int]
    ) -> list[Float[Tensor, "batch tokens dim"]]:
        """As `TokenBackbone.layer_tokens`, of the only layer."""
        found = self.model(pixel_values=x)
        pooled = getattr(found, "pooler_output", None)
        tokens = map_tokens(found.last_hidden_state, None if pooled is None else pooled.flatten(1))
        return [tokens] * len(blocks)


def _keeping(kept: dict[int, Tensor], block: int) -> Callable[..., None]:
    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        kept[block] = output[0] if isinstance(output, tuple) else output

    return hook


def _with_mean(patches: Tensor) -> Tensor:
    return torch.cat([patches.mean(dim=1, keepdim=True), patches], dim=1)


@torch.inference_mode()
def _one_look(model: Any, shown: Shown) -> Tensor:
    empty = torch.zeros(1, shown.in_chans, shown.img_size, shown.img_size)
    return model(pixel_values=empty, **_any_size(model)).last_hidden_state


def _patch(config: Any) -> int:
    return config.patch_size if isinstance(config.patch_size, int) else config.patch_size[0]


def _any_size(model: Any) -> dict[str, bool]:
    """What makes a model resize its position table, where it must be told."""
    known = "interpolate_pos_encoding" in inspect.signature(model.forward).parameters
    return {"interpolate_pos_encoding": True} if known else {}


def _blocks(model: Any) -> nn.ModuleList | None:
    """The list of its blocks: as long as the configuration says."""
    depth = getattr(model.config, "num_hidden_layers", None)
    lists = (module for module in model.modules() if isinstance(module, nn.ModuleList))
    return next((found for found in lists if len(found) == depth), None)


def _final_norm(model: Any) -> str:
    """The name of the norm after the last block; empty where there is none."""
    return next((name for name in _FINAL_NORMS if isinstance(getattr(model, name, None), nn.Module)), "")


def _side(config: Any) -> int:
    size = getattr(config, "image_size", None) or 224
    return size if isinstance(size, int) else size[0]


def _normalization(name: str) -> Normalization:
    """Mean and deviation of the model's image processor; ImageNet's, and a line, where it has none."""
    from transformers.image_processing_utils import BaseImageProcessor

    try:
        settings, _ = BaseImageProcessor.get_image_processor_dict(name)
        return tuple(settings["image_mean"]), tuple(settings["image_std"])
    except (OSError, KeyError, TypeError, ValueError):
        log.info("%s says no mean and deviation (preprocessor_config.json): taking those of ImageNet", name)
        return tuple(IMAGENET_MEAN), tuple(IMAGENET_STD)
