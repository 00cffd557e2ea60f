"""Hugging Face transformers: `Dinov2Model`, `Dinov2WithRegistersModel`, and `ViTModel` of DINO (2021).

Two styles of keys exist. On disk, releases 4.x and 5.x both write the older one; in memory, and so in a
`state_dict()` that somebody saved, 5.x has the newer one. We read both and write the older one. A
classification model has everything below `dinov2.` or `dinov2_with_registers.`, and a `classifier`.

`Dinov2Model` resizes positions without the offset of 0.1 that the released weights were trained with;
`Dinov2WithRegistersModel` resizes as the official code does.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from nexus.models.vision import ViTConfig
from nexus.weights.layouts.table import KeyTable, affine
from nexus.weights.layouts.translation import Resizing, Translation, with_mask_token, with_neutral

PREFIXES = ("dinov2_with_registers.", "dinov2.")
"""Where a classification model keeps its backbone."""
MODEL_TYPES = {
    "dinov2": "Dinov2Model",
    "dinov2_with_registers": "Dinov2WithRegistersModel",
    "vit": "ViTModel",
}

_OUTER = {
    "cls_token": ("embeddings.cls_token",),
    "pos_embed": ("embeddings.position_embeddings",),
    "register_tokens": ("embeddings.register_tokens",),
    "mask_token": ("embeddings.mask_token",),
    **affine("patch_embed.proj", "embeddings.patch_embeddings.projection"),
    **affine("norm", "layernorm"),
}
_ALIKE = {
    **affine("norm1"),
    "ls1.gamma": ("layer_scale1.lambda1",),
    **affine("norm2"),
    **affine("mlp.fc1"),
    **affine("mlp.fc2"),
    "ls2.gamma": ("layer_scale2.lambda1",),
}
_OLDER_ATTENTION = {
    **affine("attn.qkv", *(f"attention.attention.{name}" for name in ("query", "key", "value"))),
    **affine("attn.proj", "attention.output.dense"),
}
_NEWER_ATTENTION = {
    **affine("attn.qkv", *(f"attention.{name}_proj" for name in "qkv")),
    **affine("attn.proj", "attention.o_proj"),
}
OLDER = KeyTable(
    _OUTER,
    {
        **_ALIKE,
        **_OLDER_ATTENTION,
        **affine("mlp.w12", "mlp.weights_in"),
        **affine("mlp.w3", "mlp.weights_out"),
    },
    "encoder.layer.{}.",
)
NEWER = KeyTable(
    _OUTER,
    {
        **_ALIKE,
        **_NEWER_ATTENTION,
        **affine("mlp.w12", "mlp.gate_proj", "mlp.up_proj"),
        **affine("mlp.w3", "mlp.down_proj"),
    },
    "encoder.layer.{}.",
)
_VIT_NORMS = {**affine("norm1", "layernorm_before"), **affine("norm2", "layernorm_after")}
OLDER_VIT = KeyTable(
    _OUTER,
    {
        **_VIT_NORMS,
        **_OLDER_ATTENTION,
        **affine("mlp.fc1", "intermediate.dense"),
        **affine("mlp.fc2", "output.dense"),
    },
    "encoder.layer.{}.",
)
NEWER_VIT = KeyTable(
    _OUTER, {**_VIT_NORMS, **_NEWER_ATTENTION, **affine("mlp.fc1"), **affine("mlp.fc2")}, "layers.{}."
)


def recognises(tensors: Mapping[str, Tensor]) -> bool:
    """The patch embedding that all of these share."""
    return "embeddings.patch_embeddings.projection.weight" in tensors


def to_official(tensors: Mapping[str, Tensor]) -> Translation:
    """The tensors under official names; q, k and v, gate and value packed."""
    dropped = tuple(key for key in tensors if key.startswith("pooler."))
    kept = {key: tensor for key, tensor in tensors.items() if key not in dropped}
    named, filled = with_mask_token(_table_of(kept).to_official(kept))
    plain = "blocks.0.ls1.gamma" not in named
    model = (
        "ViTModel" if plain else "Dinov2WithRegistersModel" if "register_tokens" in named else "Dinov2Model"
    )
    layout = f"Hugging Face {model}"
    return Translation(named, layout, dropped, filled, Resizing(0.0, "register_tokens" in named))


def _table_of(tensors: Mapping[str, Tensor]) -> KeyTable:
    """The table that knows most of the keys; a damaged file may lack any single one."""
    return max((OLDER, NEWER, OLDER_VIT, NEWER_VIT), key=lambda table: table.known(tensors))


# ---- config.json, both ways --------------------------------------------------------------------------


def heads(settings: Mapping[str, Any]) -> int | None:
    """The number of heads that a `config.json` states; shapes alone do not show it."""
    number = settings.get("num_attention_heads")
    return number if isinstance(number, int) and number > 0 else None


def foreign_settings(settings: Mapping[str, Any]) -> str | None:
    """What a `config.json` states that would compute other features here, in words."""
    activation, eps = settings.get("hidden_act", "gelu"), settings.get("layer_norm_eps", 1e-6)
    if activation != "gelu":
        return f"hidden_act is {activation!r}, and nexus computes 'gelu'"
    if not isinstance(eps, int | float) or eps > 1e-6 * 1.001:
        return f"layer_norm_eps is {eps}, and nexus computes with 1e-6"
    return None


def normalization(folder_settings: Mapping[str, Any]) -> dict[str, list[float]]:
    """Mean and standard deviation out of a `preprocessor_config.json`, or nothing."""
    mean, std = folder_settings.get("image_mean"), folder_settings.get("image_std")
    return {"mean": list(mean), "std": list(std)} if mean and std else {}


def resizing(config: ViTConfig) -> Resizing:
    """transformers never adds an offset, and smooths for models with registers only."""
    return Resizing(0.0, bool(config.num_register_tokens))


def refusal(config: ViTConfig) -> str | None:
    """Why transformers cannot hold such a backbone, if it cannot."""
    if config.ffn_layer == "identity":
        return "transformers has no DINOv2 without feed-forward layers"
    if _whole_ratio(config) is None:
        return (
            f"transformers takes whole numbers for mlp_ratio only, and this backbone has {config.mlp_ratio:g}"
        )
    return None


def from_official(tensors: Mapping[str, Tensor], config: ViTConfig) -> dict[str, Tensor]:
    """transformers' tensors, in the older style; layer scales of 1 and biases of 0 where ours has none."""
    full = {"init_values": 1.0, "qkv_bias": True, "proj_bias": True, "ffn_bias": True}
    return OLDER.from_official(with_neutral(tensors, config.model_copy(update=full)))


def settings_of(config: ViTConfig) -> dict[str, Any]:
    """The `config.json` of a backbone."""
    model_type = "dinov2_with_registers" if config.num_register_tokens else "dinov2"
    registers = {"num_register_tokens": config.num_register_tokens} if config.num_register_tokens else {}
    return {
        "architectures": [MODEL_TYPES[model_type]],
        "model_type": model_type,
        "attention_probs_dropout_prob": 0.0,
        "drop_path_rate": 0.0,
        "dtype": "float32",
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "hidden_size": config.embed_dim,
        "image_size": config.img_size,
        "initializer_range": 0.02,
        "layer_norm_eps": 1e-6,
        "layerscale_value": config.init_values or 1.0,
        "mlp_ratio": _whole_ratio(config),
        "num_attention_heads": config.num_heads,
        "num_channels": config.in_chans,
        "num_hidden_layers": config.depth,
        "patch_size": config.patch_size,
        "qkv_bias": True,
        "use_swiglu_ffn": config.ffn_layer != "mlp",
        **registers,
    }


def preprocessor_of(config: ViTConfig, mean: Sequence[float], std: Sequence[float]) -> dict[str, Any]:
    """The `preprocessor_config.json`: our evaluation crop, 256/224 of the side and then the centre."""
    side = config.img_size
    return {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": round(side * 256 / 224)},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(mean),
        "image_std": list(std),
    }


def _whole_ratio(config: ViTConfig) -> int | None:
    """The whole `mlp_ratio` that gives the same width, if there is one."""
    gated = config.ffn_layer != "mlp"

    def width(ratio: float) -> int:
        hidden = int(config.embed_dim * ratio)
        return (int(hidden * 2 / 3) + 7) // 8 * 8 if gated else hidden

    return next((ratio for ratio in range(1, 17) if width(ratio) == width(config.mlp_ratio)), None)
