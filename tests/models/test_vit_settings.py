"""The backbone as its settings describe it: parameters, checkpoint keys, names, refusals."""

import pytest
import torch
from torch import nn

from nexus.config import build
from nexus.errors import ConfigError
from nexus.models.vision import ARCHITECTURES, VisionTransformer, ViTConfig, architecture, build_backbone
from nexus.models.vision.layers import FFN_LAYERS, Mlp, SwiGLU


def meta(**changes) -> VisionTransformer:
    with torch.device("meta"):
        return VisionTransformer(**changes)


COUNTS = [  # of the official modules: name, parameters, tensors
    ("dinov2_vits14", 22_056_576, 175),
    ("dinov2_vitb14", 86_580_480, 175),
    ("dinov2_vitl14", 304_368_640, 343),
    ("dinov2_vitg14", 1_136_480_768, 567),
    ("dinov2_vits14_reg", 22_058_112, 176),
    ("dinov2_vitb14_reg", 86_583_552, 176),
    ("dinov2_vitl14_reg", 304_372_736, 344),
    ("dinov2_vitg14_reg", 1_136_486_912, 568),
    ("vit_small_patch14", 21_629_184, 175),
    ("vit_base_patch14", 85_725_696, 175),
    ("vit_large_patch14", 303_228_928, 343),
    ("vit_large_patch14_swiglu", 303_655_168, 343),
    ("vit_giant_patch14", 1_134_771_200, 567),
    ("vit_large_patch16", 303_351_808, 343),
]


@pytest.mark.parametrize(("name", "parameters", "tensors"), COUNTS)
def test_parameter_counts_are_the_official_ones(name, parameters, tensors):
    with torch.device("meta"):
        model = build_backbone(architecture(name))
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert len(model.state_dict()) == tensors
    assert not list(model.buffers())


@pytest.mark.parametrize(
    ("size", "ffn", "per_block"),
    [
        ("small", "mlp", 1_775_232),
        ("base", "mlp", 7_089_408),
        ("large", "mlp", 12_598_272),
        ("large", "swiglu", 12_616_032),
        ("giant", "swiglufused", 28_336_640),
    ],
)
def test_block_counts_are_the_official_ones(size, ffn, per_block):
    model = meta(**{**ARCHITECTURES[size], "depth": 1, "ffn_layer": ffn})
    assert sum(p.numel() for p in model.blocks[0].parameters()) == per_block


def expected_shapes(dim: int, hidden: dict[str, tuple[int, ...]], registers: int) -> dict:
    top = {"cls_token": (1, 1, dim), "pos_embed": (1, 17, dim)}
    if registers:
        top["register_tokens"] = (1, registers, dim)
    top |= {
        "mask_token": (1, dim),
        "patch_embed.proj.weight": (dim, 3, 14, 14),
        "patch_embed.proj.bias": (dim,),
    }
    for block in range(2):
        inside = {
            "norm1.weight": (dim,),
            "norm1.bias": (dim,),
            "attn.qkv.weight": (3 * dim, dim),
            "attn.qkv.bias": (3 * dim,),
            "attn.proj.weight": (dim, dim),
            "attn.proj.bias": (dim,),
            "ls1.gamma": (dim,),
            "norm2.weight": (dim,),
            "norm2.bias": (dim,),
            **{f"mlp.{name}": shape for name, shape in hidden.items()},
            "ls2.gamma": (dim,),
        }
        top |= {f"blocks.{block}.{name}": shape for name, shape in inside.items()}
    return top | {"norm.weight": (dim,), "norm.bias": (dim,)}


MLP_SHAPES = {
    "fc1.weight": (192, 48),
    "fc1.bias": (192,),
    "fc2.weight": (48, 192),
    "fc2.bias": (48,),
}
SWIGLU_SHAPES = {
    "w12.weight": (256, 48),
    "w12.bias": (256,),
    "w3.weight": (48, 128),
    "w3.bias": (48,),
}


@pytest.mark.parametrize("registers", [0, 4])
@pytest.mark.parametrize(
    ("ffn", "hidden"),
    [("mlp", MLP_SHAPES), ("swiglu", SWIGLU_SHAPES), ("swiglufused", SWIGLU_SHAPES)],
)
def test_state_dict_has_the_official_keys_in_the_official_order(ffn, hidden, registers):
    model = meta(
        img_size=56,
        embed_dim=48,
        depth=2,
        num_heads=3,
        ffn_layer=ffn,
        num_register_tokens=registers,
    )
    found = [(name, tuple(tensor.shape)) for name, tensor in model.state_dict().items()]
    assert found == list(expected_shapes(48, hidden, registers).items())


def test_switches_remove_exactly_their_parameters():
    model = meta(depth=1, init_values=None, qkv_bias=False, proj_bias=False, ffn_bias=False)
    names = set(model.blocks[0].state_dict())
    assert names == {
        "norm1.weight",
        "norm1.bias",
        "attn.qkv.weight",
        "attn.proj.weight",
        "norm2.weight",
        "norm2.bias",
        "mlp.fc1.weight",
        "mlp.fc2.weight",
    }
    assert not [name for name in meta(init_values=0.0).state_dict() if "gamma" in name]
    assert not [name for name in meta(ffn_layer="identity").state_dict() if "mlp" in name]
    assert FFN_LAYERS["swiglu"] is FFN_LAYERS["swiglufused"] is SwiGLU
    assert FFN_LAYERS["mlp"] is Mlp


@pytest.mark.parametrize(("hidden", "gated"), [(4096, 2736), (6144, 4096), (1536, 1024)])
def test_swiglu_hidden_width_is_rounded_as_officially(hidden, gated):
    with torch.device("meta"):
        assert SwiGLU(8, hidden).w3.weight.shape == (8, gated)


def test_attributes_are_the_official_ones():
    model = VisionTransformer(56, 14, 32, 3, 2, num_register_tokens=4)
    assert (model.embed_dim, model.num_features, model.patch_size) == (32, 32, 14)
    assert (model.n_blocks, model.num_heads, model.num_register_tokens) == (3, 2, 4)
    assert isinstance(model.blocks, nn.ModuleList)
    assert isinstance(model.norm, nn.LayerNorm)
    assert model.register_tokens.shape == (1, 4, 32)
    assert meta().register_tokens is None
    assert build_backbone(model.config).config == model.config
    assert {m.eps for m in model.modules() if isinstance(m, nn.LayerNorm)} == {1e-6}


# ---- names of architectures --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vit_tiny_patch8", {"embed_dim": 192, "num_heads": 3, "patch_size": 8, "img_size": 224}),
        ("vit_small_patch14", {"embed_dim": 384, "depth": 12, "interpolate_offset": 0.1}),
        (
            "vit_base_patch16_reg4",
            {"num_register_tokens": 4, "interpolate_antialias": True, "interpolate_offset": 0.0},
        ),
        ("vit_base_patch16_reg0", {"num_register_tokens": 0, "interpolate_offset": 0.1}),
        ("vit_large_patch14_swiglu", {"ffn_layer": "swiglufused", "depth": 24, "num_heads": 16}),
        ("vit_giant_patch14_reg1_swiglu", {"ffn_layer": "swiglufused", "num_register_tokens": 1}),
        ("vit_giant_patch14", {"ffn_layer": "swiglufused", "embed_dim": 1536, "depth": 40}),
        ("dinov2_vitb14", {"img_size": 518, "num_register_tokens": 0, "ffn_layer": "mlp"}),
        (
            "dinov2_vitg14_reg",
            {"img_size": 518, "num_register_tokens": 4, "interpolate_antialias": True},
        ),
    ],
)
def test_names_say_what_they_build(name, expected):
    config = architecture(name)
    assert {field: getattr(config, field) for field in expected} == expected
    assert config.embed_dim == 64 * config.num_heads


def test_changes_win_over_the_name():
    config = architecture("vit_small_patch14", img_size=98, num_register_tokens=2, depth=3)
    assert (config.img_size, config.depth) == (98, 3)
    assert (config.interpolate_antialias, config.interpolate_offset) == (True, 0.0)
    kept = architecture("vit_small_patch14_reg4", interpolate_offset=0.2, num_register_tokens=0)
    assert (kept.interpolate_antialias, kept.interpolate_offset) == (False, 0.2)


@pytest.mark.parametrize(
    ("name", "guess"),
    [
        ("vit_smal_patch14", "vit_small_patch14"),
        ("vit_base_patch14_reg", "vit_base_patch14_reg4"),
        ("dinov2_vits16", "dinov2_vits14"),
        ("vit_base_patch14\n", "vit_base_patch14"),
    ],
)
def test_unknown_names_are_answered_with_the_nearest_and_the_grammar(name, guess):
    with pytest.raises(ConfigError) as caught:
        architecture(name)
    assert f"did you mean '{guess}'" in str(caught.value)
    assert "_patch{P}[_reg{R}]" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ffn_layer": "swigly"}, "did you mean 'swiglu'"),
        ({"embed_dim": 100, "num_heads": 3}, "embed_dim=100.*num_heads=3.*use embed_dim=102"),
        ({"img_size": 8}, "img_size=8 is smaller than patch_size=14"),
        ({"drop_path_rate": 1.0}, "drop_path_rate"),
        ({"depth": 0}, "depth=0"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes, words):
    with pytest.raises(ConfigError, match=words):
        meta(**changes)
    with pytest.raises(ConfigError, match=words):
        build(ViTConfig, changes)
    with pytest.raises(ConfigError, match=words):
        architecture("vit_small_patch14", **changes)


def test_unknown_settings_are_answered_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'num_register_tokens'"):
        architecture("vit_small_patch14", num_registers_token=4)
    with pytest.raises(ConfigError, match="patch_size"):
        architecture("vit_small_patch0")


def test_every_setting_is_documented():
    for name, field in ViTConfig.model_fields.items():
        assert field.description, name
