"""The backbone: golden values of the official modules, shapes, keys, counts, stochastic depth, errors."""

import copy
import io
import math
import pickle
import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn

from nexus.config import build
from nexus.errors import ConfigError
from nexus.models.vision import (
    ARCHITECTURES,
    VisionTransformer,
    ViTConfig,
    architecture,
    build_backbone,
)
from nexus.models.vision.embed import positions
from nexus.models.vision.layers import FFN_LAYERS, Mlp, SwiGLU, add_branch, kept_samples

REGISTERS = {
    "num_register_tokens": 4,
    "interpolate_antialias": True,
    "interpolate_offset": 0.0,
}
# Made with the official modules: the first, second and last number of the table of CLS tokens (2, 48).
GOLDEN = {
    "mlp": (
        {},
        {
            (70, 70): (-0.237158, -1.533677, -2.011333),
            (98, 98): (-0.121864, -1.523095, -1.870241),
            (42, 84): (-0.169726, -1.519249, -1.864172),
        },
    ),
    "mlp_reg": (
        REGISTERS,
        {
            (70, 70): (0.333733, -1.175168, -2.054422),
            (98, 98): (0.445588, -1.122082, -2.015902),
            (42, 84): (0.377608, -1.162036, -2.048803),
        },
    ),
    "swiglu": (
        {"ffn_layer": "swiglu"},
        {
            (70, 70): (-1.485821, -0.633121, -1.496802),
            (98, 98): (-1.522025, -0.510634, -1.296967),
            (42, 84): (-1.543471, -0.512095, -1.275929),
        },
    ),
    "swiglu_reg": (
        {"ffn_layer": "swiglufused", **REGISTERS},
        {
            (70, 70): (-1.187047, 0.405523, -0.977327),
            (98, 98): (-1.101088, 0.597018, -0.878775),
            (42, 84): (-1.152025, 0.471632, -0.947844),
        },
    ),
}


def fill(shape: tuple[int, ...], scale: float = 1.0, phase: float = 0.0) -> torch.Tensor:
    steps = torch.arange(math.prod(shape), dtype=torch.float64)
    return (scale * torch.sin(0.37 * steps + phase)).float().reshape(shape)


def golden_model(**changes) -> VisionTransformer:
    model = VisionTransformer(70, 14, 48, 3, 3, init_values=1.0, **changes)
    filled = {}
    for index, (name, tensor) in enumerate(model.state_dict().items()):
        shift = 1.0 if name.endswith("gamma") or ("norm" in name and "weight" in name) else 0.0
        filled[name] = fill(tuple(tensor.shape), 0.08, index) + shift
    model.load_state_dict(filled)
    return model.eval()


def tiny(**changes) -> VisionTransformer:
    """A model whose every parameter matters: drawn wide, so that no difference hides."""
    model = VisionTransformer(56, 14, 32, 3, 2, **changes)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.eval()


def images(height: int, width: int | None = None) -> torch.Tensor:
    return fill((2, 3, height, width or height), 1.0, 0.1)


def meta(**changes) -> VisionTransformer:
    with torch.device("meta"):
        return VisionTransformer(**changes)


# ---- golden values -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(70, 70), (98, 98), (42, 84)], ids=str)
@pytest.mark.parametrize("row", GOLDEN)
@torch.no_grad()
def test_cls_equals_the_official_modules(row, size):
    changes, expected = GOLDEN[row]
    model = golden_model(**changes)
    cls = model.forward_features(images(*size))["x_norm_clstoken"]
    assert cls.flatten()[[0, 1, -1]].tolist() == pytest.approx(expected[size], abs=2e-5)
    assert torch.equal(model(images(*size))[:, 0], cls)


@torch.no_grad()
def test_masked_patches_equal_the_official_modules():
    masks = torch.zeros(2, 25, dtype=torch.bool)
    masks[0, 3:9] = True
    model = golden_model()
    assert sum(p.numel() for p in model.parameters()) == 114_816
    features = model.forward_features(images(70), masks)
    expected = pytest.approx((-0.197279, -1.550009, -2.011333), abs=2e-5)
    assert features["x_norm_clstoken"].flatten()[[0, 1, -1]].tolist() == expected
    assert features["masks"] is masks
    free = model.forward_features(images(70))
    assert torch.equal(features["x_prenorm"][1], free["x_prenorm"][1])
    assert torch.equal(model(images(70), masks)[:, 0], features["x_norm_clstoken"])


@torch.no_grad()
def test_intermediate_layers_equal_the_official_modules():
    model = golden_model()
    layers = model.get_intermediate_layers(images(70), n=[0, 2], reshape=True, return_class_token=True)
    assert [tuple(patches.shape) for patches, _ in layers] == [(2, 48, 5, 5)] * 2
    assert layers[0][1][0, :2].tolist() == pytest.approx([-0.576893, -1.723947], abs=2e-5)
    features = model.forward_features(images(70))
    assert torch.equal(layers[1][1], features["x_norm_clstoken"])


# ---- names, shapes, counts ---------------------------------------------------------------------------

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
    model = tiny(num_register_tokens=4)
    assert (model.embed_dim, model.num_features, model.patch_size) == (32, 32, 14)
    assert (model.n_blocks, model.num_heads, model.num_register_tokens) == (3, 2, 4)
    assert isinstance(model.blocks, nn.ModuleList)
    assert isinstance(model.norm, nn.LayerNorm)
    assert model.register_tokens.shape == (1, 4, 32)
    assert tiny().register_tokens is None
    assert build_backbone(model.config).config == model.config
    assert {m.eps for m in model.modules() if isinstance(m, nn.LayerNorm)} == {1e-6}


# ---- tokens ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("registers", [0, 3])
@pytest.mark.parametrize("size", [(56, 56), (28, 70), (14, 14)], ids=str)
@torch.no_grad()
def test_forward_is_cls_and_patches_without_registers(size, registers):
    model = tiny(num_register_tokens=registers)
    patches = size[0] // 14 * (size[1] // 14)
    features = model.forward_features(images(*size))
    tokens = model(images(*size))
    assert tokens.shape == (2, 1 + patches, 32)
    assert torch.equal(tokens[:, 0], features["x_norm_clstoken"])
    assert torch.equal(tokens[:, 1:], features["x_norm_patchtokens"])
    assert features["x_norm_regtokens"].shape == (2, registers, 32)
    assert features["x_prenorm"].shape == (2, 1 + registers + patches, 32)
    assert features["masks"] is None
    assert list(features) == [
        "x_norm_clstoken",
        "x_norm_regtokens",
        "x_norm_patchtokens",
        "x_prenorm",
        "masks",
    ]


def naive_tokens(model: VisionTransformer, x: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """The first block's input, patch by patch, at the native grid."""
    patch, weight = model.patch_size, model.patch_embed.proj.weight.flatten(1)
    batch = []
    for image, hidden in zip(x, masks, strict=True):
        row = [model.cls_token[0, 0] + model.pos_embed[0, 0], *(model.register_tokens[0])]
        for place in range(masks.shape[1]):
            top, left = place // 4 * patch, place % 4 * patch
            pixels = image[:, top : top + patch, left : left + patch].flatten()
            token = weight @ pixels + model.patch_embed.proj.bias
            token = model.mask_token[0] if hidden[place] else token
            row.append(token + model.pos_embed[0, 1 + place])
        batch.append(torch.stack(row))
    return torch.stack(batch)


@torch.no_grad()
def test_tokens_enter_the_first_block_in_the_official_order():
    model = tiny(num_register_tokens=2)
    masks = torch.rand(2, 16) < 0.4
    seen = []
    model.blocks[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model(images(56), masks)
    torch.testing.assert_close(seen[0], naive_tokens(model, images(56), masks), atol=1e-4, rtol=0)


@torch.no_grad()
def test_hidden_pixels_do_not_reach_the_output():
    model = tiny(num_register_tokens=2)
    masks = torch.zeros(2, 16, dtype=torch.bool)
    masks[0, 0] = True
    changed = images(56)
    changed[0, :, :14, :14] += 5.0
    assert torch.equal(model(changed, masks), model(images(56), masks))
    assert not torch.allclose(model(changed), model(images(56)))


@pytest.mark.parametrize("registers", [0, 2])
@torch.no_grad()
def test_intermediate_layers_are_the_blocks_outputs(registers):
    model = tiny(num_register_tokens=registers)
    outputs = []
    for block in model.blocks:
        block.register_forward_hook(lambda _, args, output: outputs.append(output))
    x = images(28, 70)
    model(x)
    skip = 1 + registers
    last_two = model.get_intermediate_layers(x, n=2)
    for layer, output in zip(last_two, outputs[1:3], strict=True):
        assert torch.equal(layer, model.norm(output)[:, skip:])
    unordered = model.get_intermediate_layers(x, n=(2, 0), norm=False, return_class_token=True)
    for (patches, cls), output in zip(unordered, (outputs[0], outputs[2]), strict=True):
        assert torch.equal(patches, output[:, skip:])
        assert torch.equal(cls, output[:, 0])
    (grid,) = model.get_intermediate_layers(x, reshape=True)
    assert grid.shape == (2, 32, 2, 5)
    assert grid.is_contiguous()
    assert torch.equal(grid[:, :, 1, 3], last_two[1][:, 1 * 5 + 3])


@pytest.mark.parametrize("n", [0, 4, -1, [3], [-1], [0, 0], []], ids=str)
def test_blocks_that_do_not_exist_are_refused(n):
    with pytest.raises(ConfigError, match="depth 3"):
        tiny().get_intermediate_layers(images(28), n=n)


@torch.no_grad()
def test_attention_maps_are_the_attention_that_the_block_applies():
    model = tiny(num_register_tokens=2)
    maps = model.attention_maps(images(28), block=1)
    assert maps.shape == (2, 2, 7, 7)
    torch.testing.assert_close(maps.sum(-1), torch.ones(2, 2, 7))
    seen = []
    attention = model.blocks[1].attn
    attention.register_forward_hook(lambda _, args, output: seen.extend((args[0], output)))
    model(images(28))
    value = attention.qkv(seen[0])[..., 64:].unflatten(2, (2, 16))
    mixed = torch.einsum("bhij,bjhd->bihd", maps, value).flatten(2)
    torch.testing.assert_close(attention.proj(mixed), seen[1])
    assert torch.equal(model.attention_maps(images(28)), model.attention_maps(images(28), block=2))
    for block in (3, -4):
        with pytest.raises(ConfigError, match="3 blocks"):
            model.attention_maps(images(28), block=block)


# ---- position table ----------------------------------------------------------------------------------


def test_position_table_is_untouched_at_its_own_grid():
    table = torch.randn(1, 26, 8)
    assert positions(table, 5, 5) is table
    assert positions(table, 5, 5, offset=0.0, antialias=True) is table


@pytest.mark.parametrize(("rows", "cols"), [(25, 1), (7, 7), (3, 5), (74, 2), (1, 1)])
@pytest.mark.parametrize(("offset", "antialias"), [(0.1, False), (0.0, True), (0.0, False)])
def test_position_table_is_resized_in_float32_and_keeps_cls(rows, cols, offset, antialias):
    table = torch.randn(1, 26, 8)
    resized = positions(table, rows, cols, offset=offset, antialias=antialias)
    assert resized.shape == (1, 1 + rows * cols, 8)
    assert torch.equal(resized[:, 0], table[:, 0])
    half = positions(table.bfloat16(), rows, cols, offset=offset, antialias=antialias)
    exact = positions(table.bfloat16().float(), rows, cols, offset=offset, antialias=antialias)
    assert half.dtype == torch.bfloat16
    assert torch.equal(half, exact.bfloat16())


def cubic_row(row: torch.Tensor, count: int, offset: float) -> list[float]:
    """Bicubic resampling of one line from its definition (a = -0.75, edges repeated)."""

    def kernel(t: float) -> float:
        t, a = abs(t), -0.75
        if t <= 1:
            return (a + 2) * t**3 - (a + 3) * t**2 + 1
        return a * (t**3 - 5 * t**2 + 8 * t - 4) if t < 2 else 0.0

    result = []
    for place in range(count):
        source = (place + 0.5) * len(row) / (count + offset) - 0.5
        near = range(math.floor(source) - 1, math.floor(source) + 3)
        terms = [kernel(source - i) * float(row[min(max(i, 0), len(row) - 1)]) for i in near]
        result.append(sum(terms))
    return result


@pytest.mark.parametrize("offset", [0.1, 0.0])
def test_resized_positions_follow_the_documented_coordinates(offset):
    line = torch.randn(6)
    table = torch.cat((torch.zeros(1), line.repeat_interleave(6))).reshape(1, 37, 1)
    resized = positions(table, 9, 6, offset=offset)[0, 1:, 0].reshape(9, 6)
    torch.testing.assert_close(resized[:, 2], torch.tensor(cubic_row(line, 9, offset)))


# ---- image sizes -------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_remainder_is_dropped_with_one_warning_for_each_size():
    model = tiny()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tokens = model(images(60, 45))
        model(images(60, 45))
        model(images(56, 45))
    assert len(caught) == 2
    message = str(caught[0].message)
    for part in ("60 × 45", "patches of 14", "4 px", "3 px", "70 × 56"):
        assert part in message
    assert torch.equal(tokens, model(images(60, 45)[:, :, :56, :42]))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tiny()(images(96))
    assert "use 98 × 98 px" in str(caught[0].message)


def test_images_that_cannot_be_used_are_refused():
    with pytest.raises(ConfigError, match=r"13 × 28 px.*smaller than one patch of 14"):
        tiny()(images(13, 28))
    with pytest.raises(ConfigError, match=r"1 channels.*in_chans=1"):
        tiny()(torch.zeros(1, 1, 28, 28))
    with pytest.raises(ConfigError, match=r"masks of shape \(2, 9\).*2 × 2 patches.*\(2, 4\)"):
        tiny()(images(28), torch.zeros(2, 9, dtype=torch.bool))
    with torch.no_grad():
        assert tiny(in_chans=5)(torch.zeros(1, 5, 28, 28)).shape == (1, 5, 32)


# ---- stochastic depth --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch", "rate", "kept"),
    [(64, 0.3, 44), (64, 0.4, 38), (1, 0.9, 1), (10, 0.95, 1), (8, 0.0, 8), (2, 0.5, 1)],
)
def test_kept_counts_are_the_official_ones(batch, rate, kept):
    assert kept_samples(batch, rate) == kept


@pytest.mark.parametrize(("rate", "kept"), [(0.3, 44), (0.4, 38)])
def test_a_branch_sees_only_the_kept_images(rate, kept):
    x = torch.randn(64, 3, 4)
    seen = []

    def branch(tokens):
        seen.append(tokens)
        return tokens * 2.0

    before = x.clone()
    out = add_branch(x, branch, rate)
    assert seen[0].shape == (kept, 3, 4)
    changed = (out != x).flatten(1).any(1)
    assert int(changed.sum()) == kept
    torch.testing.assert_close(out[changed], x[changed] * (1 + 2 * 64 / kept))
    assert torch.equal(x, before)


def test_stochastic_depth_keeps_the_expectation():
    x = torch.randn(10, 1, 6)
    draws = 4000
    mean = sum(add_branch(x, torch.cos, 0.4) - x for _ in range(draws)) / draws
    # Each draw adds cos(x)·10/6 with probability 6/10: variance cos²(x)·(10/6 - 1), 5 standard errors.
    assert (mean - x.cos()).abs().max() < 5 * math.sqrt((10 / 6 - 1) / draws)


def test_every_branch_of_every_block_draws_its_own_subset():
    model = VisionTransformer(28, 14, 8, 3, 2, drop_path_rate=0.5)
    seen: list[tuple[str, int]] = []
    for name, module in model.named_modules():
        if name.endswith((".norm1", ".norm2")):
            module.register_forward_hook(lambda _, args, output, name=name: seen.append((name, len(args[0]))))
    model.train()(torch.randn(9, 3, 28, 28))
    assert seen == [(f"blocks.{i}.{norm}", 4) for i in range(3) for norm in ("norm1", "norm2")]
    seen.clear()
    model.eval()(torch.randn(9, 3, 28, 28))
    assert {count for _, count in seen} == {9}
    assert {block.drop_path_rate for block in model.blocks} == {0.5}


def test_stochastic_depth_follows_the_global_generator_and_rests_in_eval():
    model = tiny(drop_path_rate=0.5)
    plain = tiny()
    plain.load_state_dict(model.state_dict())
    x = torch.randn(6, 3, 28, 28)
    with torch.no_grad():
        assert torch.equal(model(x), plain(x))
        model.train()
        first, second = (torch.manual_seed(3) and model(x) for _ in range(2))
        assert torch.equal(first, second)
        assert not torch.equal(first, model(x))


def test_stochastic_depth_sends_the_scaled_gradient_back():
    x = torch.ones(8, 2, 3, requires_grad=True)
    weight = torch.tensor(3.0, requires_grad=True)
    add_branch(x, lambda tokens: tokens * weight, 0.5).sum().backward()
    factors = x.grad[:, 0, 0]
    assert sorted(factors.tolist()) == [1.0] * 4 + [7.0] * 4
    assert weight.grad.item() == pytest.approx(8 / 4 * 4 * 6)


# ---- start, gradients, precision ---------------------------------------------------------------------


@pytest.mark.parametrize("ffn", ["mlp", "swiglu"])
def test_init_weights_leaves_nothing_of_the_memory(ffn):
    model = meta(img_size=28, depth=2, ffn_layer=ffn, num_register_tokens=4)
    model = model.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(math.nan)
    model.init_weights()
    assert all(bool(p.isfinite().all()) for p in model.parameters())


def test_weights_start_as_officially():
    model = VisionTransformer(112, 14, 192, 2, 3, init_values=1e-5, num_register_tokens=4)
    for name, parameter in model.state_dict().items():
        if name.startswith("patch_embed"):
            bound = 1 / math.sqrt(3 * 14 * 14)
            assert 0.9 * bound < float(parameter.abs().max()) <= bound
        elif "gamma" in name:
            assert torch.equal(parameter, torch.full_like(parameter, 1e-5))
        elif name.endswith("bias") or name == "mask_token":
            assert not parameter.any()
        elif "norm" in name:
            assert torch.equal(parameter, torch.ones_like(parameter))
        else:
            want = 1e-6 if name in ("cls_token", "register_tokens") else 0.02
            assert float(parameter.std()) == pytest.approx(want, rel=0.15), name
            assert abs(float(parameter.mean())) < 0.2 * want
    longest = model.blocks[0].mlp.fc1.weight.detach().abs().max()
    assert longest > 3 * 0.02, "cut at ±2, not at two standard deviations"


@pytest.mark.parametrize("ffn", ["mlp", "swiglu"])
@pytest.mark.parametrize("registers", [0, 2])
def test_gradients_reach_every_parameter(ffn, registers):
    model = tiny(ffn_layer=ffn, num_register_tokens=registers).train()
    masks = torch.zeros(2, 6, dtype=torch.bool)
    (model(images(28, 42), masks) ** 3).sum().backward()
    silent = {n for n, p in model.named_parameters() if not p.grad.any()}
    assert silent == {"mask_token"}, "only the mask token rests, where nothing is hidden"
    masks[0, 2] = True
    (model(images(28, 42), masks) ** 3).sum().backward()
    assert model.mask_token.grad.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_low_precision_stays_close(dtype):
    model = VisionTransformer(56, 14, 64, 2, 2, init_values=1.0, num_register_tokens=2).eval()
    nn.init.normal_(model.pos_embed, std=0.5)
    masks = torch.zeros(2, 10, dtype=torch.bool)
    masks[:, 3] = True
    x = images(28, 70)
    exact = model(x, masks)
    low = copy.deepcopy(model).to(dtype)(x.to(dtype), masks)
    assert low.dtype == dtype
    torch.testing.assert_close(low.float(), exact, atol=0.15, rtol=0)
    with torch.autocast("cpu", dtype):
        mixed = model(x, masks)
        layers = model.get_intermediate_layers(x, n=2)
    torch.testing.assert_close(mixed.float(), exact, atol=0.1, rtol=0)
    assert all(bool(layer.isfinite().all()) for layer in layers)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_stochastic_depth_works_under_autocast_and_in_low_precision(dtype):
    model = VisionTransformer(28, 14, 32, 2, 2, drop_path_rate=0.4, num_register_tokens=2).train()
    x = torch.randn(5, 3, 28, 28)
    with torch.autocast("cpu", dtype):
        model(x).float().square().mean().backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)
    assert model.to(dtype)(x.to(dtype)).isfinite().all()


@torch.no_grad()
def test_copies_and_round_trips_are_equal():
    model = tiny(num_register_tokens=2, drop_path_rate=0.2)
    expected = model(images(28))
    stream = io.BytesIO()
    torch.save(model.state_dict(), stream)
    stream.seek(0)
    fresh = build_backbone(model.config).eval()
    fresh.load_state_dict(torch.load(stream, weights_only=True), strict=True)
    assigned = meta(**model.config.model_dump())
    assigned.load_state_dict(model.state_dict(), assign=True)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), fresh, assigned.eval()):
        assert torch.equal(twin(images(28)), expected)
        assert twin.config == model.config


COMPILED = """
import torch
from nexus.models.vision import VisionTransformer
torch.manual_seed(0)
model = VisionTransformer(28, 14, 32, 2, 2, num_register_tokens=2, drop_path_rate=0.5)
fast = torch.compile(model, backend="eager", fullgraph=True)
x, masks = torch.randn(4, 3, 42, 28), torch.rand(4, 6) < 0.5
for mode in (True, False):
    model.train(mode)
    results = []
    for run in (model, fast):
        torch.manual_seed(1)
        results.append(run(x, masks))
    torch.testing.assert_close(*results)
results[1].sum().backward()
"""


def test_compiles_to_one_graph():
    subprocess.run([sys.executable, "-c", COMPILED], check=True, timeout=240)


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
