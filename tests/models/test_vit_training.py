"""The backbone in training: stochastic depth, first weights, gradients, precision, copies, compilation."""

import copy
import io
import math
import pickle
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from nexus.models.vision import VisionTransformer, build_backbone
from nexus.models.vision.layers import attend
from nexus.models.vision.stochastic_depth import add_branch, draw_subset, kept_samples


def tiny(**changes) -> VisionTransformer:
    """A model whose every parameter matters: drawn wide, so that no difference hides."""
    model = VisionTransformer(56, 14, 32, 3, 2, **changes)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.eval()


def images(height: int, width: int | None = None) -> torch.Tensor:
    return torch.randn(2, 3, height, width or height)


def meta(**changes) -> VisionTransformer:
    with torch.device("meta"):
        return VisionTransformer(**changes)


# ---- stochastic depth --------------------------------------------------------------------------------


def with_branch(x: torch.Tensor, branch, rate: float) -> torch.Tensor:
    """`add_branch` for a single group."""
    (out,) = add_branch([x], lambda groups: [branch(*groups)], [draw_subset(len(x), rate, x.device)])
    return out


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
    out = with_branch(x, branch, rate)
    assert seen[0].shape == (kept, 3, 4)
    changed = (out != x).flatten(1).any(1)
    assert int(changed.sum()) == kept
    torch.testing.assert_close(out[changed], x[changed] * (1 + 2 * 64 / kept))
    assert torch.equal(x, before)


def test_stochastic_depth_keeps_the_expectation():
    x = torch.randn(10, 1, 6)
    draws = 4000
    mean = sum(with_branch(x, torch.cos, 0.4) - x for _ in range(draws)) / draws
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
    with_branch(x, lambda tokens: tokens * weight, 0.5).sum().backward()
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
    x = images(28)
    expected = model(x)
    stream = io.BytesIO()
    torch.save(model.state_dict(), stream)
    stream.seek(0)
    fresh = build_backbone(model.config).eval()
    fresh.load_state_dict(torch.load(stream, weights_only=True), strict=True)
    assigned = meta(**model.config.model_dump())
    assigned.load_state_dict(model.state_dict(), assign=True)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), fresh, assigned.eval()):
        assert torch.equal(twin(x), expected)
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

groups, hidden, wanted = [x, torch.randn(6, 3, 14, 14)], [masks, None], [torch.tensor([1, 9]), None]
def read():
    torch.manual_seed(1)
    return [part for pair in model.train().read_list(groups, hidden, wanted) for part in pair]
expected = read()
for block in model.blocks:
    block.compile(backend="eager", fullgraph=True)
torch.testing.assert_close(read(), expected)
sum(part.sum() for part in read()).backward()
"""


def test_compiles_to_one_graph():
    """The whole model; and the blocks by themselves where they take crops of two sizes."""
    subprocess.run([sys.executable, "-c", COMPILED], check=True, timeout=240)


def test_attention_written_out_equals_the_fused_kernel() -> None:
    """bf16 on CPUs takes the path that is written out; both agree within bf16's rounding."""
    query, key, value = torch.randn(3, 2, 2, 9, 16).bfloat16().unbind(0)
    expected = F.scaled_dot_product_attention(query.float(), key.float(), value.float())
    torch.testing.assert_close(attend(query, key, value).float(), expected, rtol=0.02, atol=0.02)


# ---- only what is read -------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.0, 0.5])
@pytest.mark.parametrize("registers", [0, 2])
def test_what_is_read_is_what_forward_features_gives(rate: float, registers: int) -> None:
    """The same draws of stochastic depth, the same numbers, the same gradients; the rest is not computed."""
    model = tiny(num_register_tokens=registers, drop_path_rate=rate).train()
    x, masks = torch.randn(5, 3, 28, 42), torch.rand(5, 6) < 0.4
    index = masks.flatten().nonzero().flatten()
    torch.manual_seed(4)
    features = model.forward_features(x, masks)
    expected = features["x_norm_clstoken"], features["x_norm_patchtokens"].flatten(0, 1)[index]
    torch.manual_seed(4)
    got = model.read(x, masks, index)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    for pair in (got, expected):
        model.zero_grad()
        sum((part**3).sum() for part in pair).backward()
        for parameter in model.parameters():
            parameter.others = [*getattr(parameter, "others", []), parameter.grad.clone()]
    for name, parameter in model.named_parameters():
        first, second = parameter.others
        torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-3 * float(second.abs().max()), msg=name)
