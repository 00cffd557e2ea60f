"""The backbone: golden values of the official modules, shapes, keys, counts, stochastic depth, errors."""

import math
import warnings

import pytest
import torch
from torch import nn

from nexus.errors import ConfigError
from nexus.models.vision import (
    VisionTransformer,
)
from nexus.models.vision.embed import positions

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
