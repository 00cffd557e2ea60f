"""From normalised images to named features: CLS, registers, patches, their mean, of any layer.

Layers are counted by how many blocks have run: layer 1 is the output of the first block, -1 that of the
last. (`get_intermediate_layers` counts blocks from 0, as the official one does.) All tokens are taken after
the final LayerNorm, whatever the layer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from nexus.errors import ConfigError, unknown
from nexus.features.view import AUTOCAST
from nexus.models.vision.fitting import Placement, fit_images

FEATURES = ("cls", "mean_patch", "patches", "registers")


@runtime_checkable
class Backbone(Protocol):
    """What an evaluation may ask of a model: the two calls of the official API, and two numbers.

    `get_intermediate_layers(x, n, return_class_token=True, norm=True)` returns the last `n` blocks in depth
    order as `(patches (B, N, D), cls (B, D))`, both after the final norm. It must be a `torch.nn.Module`.
    """

    @property
    def embed_dim(self) -> int:
        """Width `D` of a token."""

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels."""

    def forward_features(self, x: Any) -> Any:
        """Tokens by name: `x_norm_clstoken`, `x_norm_patchtokens`, ..."""

    def get_intermediate_layers(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """Tokens of several blocks."""


@dataclass(frozen=True)
class LayerFeatures:
    """The tokens of one layer after the final norm."""

    cls: Float[Tensor, "batch dim"]
    registers: Float[Tensor, "batch registers dim"]
    """Zero of them in a backbone without."""
    patches: Float[Tensor, "batch dim rows cols"]
    """A map of features."""

    @property
    def mean_patch(self) -> Float[Tensor, "batch dim"]:
        """The mean over all patches."""
        return self.patches.flatten(2).mean(dim=2)


@dataclass(frozen=True)
class ImageFeatures(LayerFeatures):
    """Everything about a batch of images: the last layer, the layers asked for, attention."""

    placement: Placement
    """How the images came onto whole patches: `placement.unfit(patches)` is a map in their own pixels."""
    layers: Mapping[int, LayerFeatures] = field(default_factory=dict)
    """By the numbers that were asked for."""
    attention: Mapping[int, Float[Tensor, "batch heads tokens tokens"]] = field(default_factory=dict)
    """By layer: row `i` says what token `i` looks at; tokens are CLS, registers, patches."""


@dataclass(frozen=True)
class Wanted:
    """Which columns a feature table gets: each of `features` (see `FEATURES`) of each of `layers`.

    A column has the name of its feature; where layers were chosen, `_l3` and so on follows it.
    """

    features: tuple[str, ...] = ("cls", "mean_patch")
    layers: tuple[int, ...] = (-1,)

    def __post_init__(self) -> None:
        if not self.features or not self.layers:
            raise ConfigError("name at least one feature and one layer")
        for name in self.features:
            if name not in FEATURES:
                raise ConfigError(unknown("feature", name, FEATURES))

    def columns(self, depth: int) -> dict[str, tuple[str, int]]:
        """Column → (feature, block counted from 0), in the order of the layers, then of the features."""
        blocks = layer_blocks(self.layers, depth)
        plain = self.layers == (-1,)
        return {
            name if plain else f"{name}_l{block + 1}": (name, block)
            for block in blocks
            for name in dict.fromkeys(self.features)
        }


def layer_blocks(layers: Sequence[int], depth: int) -> list[int]:
    """Blocks counted from 0, for layers counted from 1 or, negative, from the end."""
    for layer in layers:
        if layer == 0 or abs(layer) > depth:
            raise ConfigError(
                f"layer {layer} does not exist: the backbone has {depth}; use 1 to {depth}, or -1 for the"
                " last"
            )
    return list(dict.fromkeys(layer - 1 if layer > 0 else depth + layer for layer in layers))


def depth_of(backbone: Any) -> int:
    """The number of blocks; 1 where a foreign backbone does not say, so that only the last is known."""
    return getattr(backbone, "n_blocks", 1)


Parts = dict[str, Tensor]
"""`cls` (B, D), `patches` (B, N, D) and, where known, `registers` (B, R, D) of one layer."""


def wanted_columns(
    backbone: Any, images: Float[Tensor, "batch chans height width"], wanted: Wanted, precision: str = "fp32"
) -> dict[str, Tensor]:
    """The columns of `wanted` for normalised images, float32 on their device; patches are (B, N, D)."""
    columns = wanted.columns(depth_of(backbone))
    blocks = sorted({block for _, block in columns.values()})
    with_registers = "registers" in wanted.features
    parts = layer_parts(backbone, images, blocks, precision, with_registers=with_registers)
    found = {}
    for column, (name, block) in columns.items():
        tokens = parts[block]["patches" if name == "mean_patch" else name].float()
        found[column] = tokens.mean(dim=1) if name == "mean_patch" else tokens
    return found


@torch.inference_mode()
def layer_parts(
    backbone: Any, images: Tensor, blocks: Sequence[int], precision: str, *, with_registers: bool = False
) -> dict[int, Parts]:
    """The tokens of some blocks (ascending, from 0); no block after the last of them runs."""
    dtype = AUTOCAST.get(precision)
    with torch.autocast(images.device.type, dtype=dtype, enabled=dtype is not None):
        if hasattr(backbone, "layer_tokens"):
            first = 1 + backbone.num_register_tokens
            layers = backbone.layer_tokens(images, blocks)
            return {
                block: {"cls": t[:, 0], "registers": t[:, 1:first], "patches": t[:, first:]}
                for block, t in zip(blocks, layers, strict=True)
            }
        if with_registers:
            return _foreign_registers(backbone, images, blocks)
        count = depth_of(backbone) - min(blocks)
        pairs = backbone.get_intermediate_layers(
            images, n=count, reshape=False, return_class_token=True, norm=True
        )
        chosen = (pairs[block - min(blocks)] for block in blocks)
        return {
            block: {"cls": cls, "patches": patches}
            for block, (patches, cls) in zip(blocks, chosen, strict=True)
        }


def _foreign_registers(backbone: Any, images: Tensor, blocks: Sequence[int]) -> dict[int, Parts]:
    """The official API gives registers of the last layer only."""
    last = depth_of(backbone) - 1
    tokens = backbone.forward_features(images) if list(blocks) == [last] else {}
    if "x_norm_regtokens" not in tokens:
        raise ConfigError(
            f"{type(backbone).__name__} does not give registers of these layers; ask for cls or patches"
        )
    names = {"cls": "x_norm_clstoken", "registers": "x_norm_regtokens", "patches": "x_norm_patchtokens"}
    return {last: {part: tokens[name] for part, name in names.items()}}


def image_features(
    backbone: Any,
    images: Float[Tensor, "batch chans height width"],
    *,
    layers: Sequence[int] = (),
    attention: Sequence[int] = (),
    fit: str = "resize",
    precision: str = "fp32",
) -> ImageFeatures:
    """Everything that `backbone`, in eval mode, says about normalised images of any one size.

    `layers` and `attention` name layers as at the head of this file; an attention map takes tokens² numbers
    per head. Float32, on the device of the images. Raises `ConfigError` for layers that do not exist, and
    what `fit` raises.
    """
    depth = depth_of(backbone)
    images, placement = fit_images(images, backbone.patch_size, fit)
    blocks = layer_blocks(layers, depth)
    parts = layer_parts(backbone, images, sorted({*blocks, depth - 1}), precision)
    found = {block: _mapped(part, placement) for block, part in parts.items()}
    last = found[depth - 1]
    return ImageFeatures(
        cls=last.cls,
        registers=last.registers,
        patches=last.patches,
        placement=placement,
        layers={layer: found[layer_blocks([layer], depth)[0]] for layer in layers},
        attention={layer: _attention(backbone, images, layer, precision) for layer in attention},
    )


def _mapped(part: Parts, placement: Placement) -> LayerFeatures:
    cls, patches = part["cls"].float(), part["patches"].float()
    registers = part["registers"].float() if "registers" in part else cls.new_empty(len(cls), 0, cls.shape[1])
    return LayerFeatures(cls, registers, patches.transpose(1, 2).unflatten(2, placement.grid).contiguous())


@torch.inference_mode()
def _attention(backbone: Any, images: Tensor, layer: int, precision: str) -> Tensor:
    (block,) = layer_blocks([layer], depth_of(backbone))
    dtype = AUTOCAST.get(precision)
    with torch.autocast(images.device.type, dtype=dtype, enabled=dtype is not None):
        return backbone.attention_maps(images, block).float()
