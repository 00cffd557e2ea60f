"""The projection head: official numbers, keys, counts, start values, precision."""

import warnings

import pytest
import torch

from nexus.errors import ConfigError
from nexus.models.ssl.head import DINOv2Head
from tests.losses.oracles import fill

KEYS = [f"mlp.{i}.{name}" for i in (0, 2, 4) for name in ("weight", "bias")]
KEYS += ["last_layer.weight_g", "last_layer.weight_v"]


def test_golden() -> None:
    """G6: state-dict tensor i is fill(shape, 0.3, i), and `weight_g` is 1."""
    head = DINOv2Head(12, 16, 20, 8)
    state = {k: fill(tuple(v.shape), 0.3, i) for i, (k, v) in enumerate(head.state_dict().items())}
    state["last_layer.weight_g"].fill_(1.0)
    head.load_state_dict(state)
    y = head(fill((3, 12), 1, 0.2))
    assert y.mean().item() == pytest.approx(-4.627433e-3, abs=1e-6)
    assert y.std().item() == pytest.approx(6.562103e-1, abs=1e-6)
    assert y.flatten()[[0, 1, -1]].tolist() == pytest.approx([-0.186766, 0.014842, -0.016198], abs=2e-6)


def test_keys_and_shapes() -> None:
    state = DINOv2Head(12, 16, 20, 8).state_dict()
    assert list(state) == KEYS
    assert state["last_layer.weight_g"].shape == (20, 1)
    assert state["last_layer.weight_v"].shape == (20, 8)
    assert list(DINOv2Head(12, 16, 20, 8, nlayers=1).state_dict())[:2] == ["mlp.weight", "mlp.bias"]
    assert list(DINOv2Head(12, 16, 20, 8, nlayers=2).state_dict())[2] == "mlp.2.weight"


@pytest.mark.parametrize(
    ("dim", "prototypes", "bottleneck", "count"),
    [
        (384, 65536, 256, 22_352_128),
        (768, 65536, 256, 23_138_560),
        (1024, 65536, 256, 23_662_848),
        (1024, 131072, 384, 57_545_088),
        (1024, 131072, 256, 40_505_600),
        (1536, 131072, 384, 58_593_664),
        (1536, 131072, 256, 41_554_176),
    ],
)
def test_parameter_counts(dim: int, prototypes: int, bottleneck: int, count: int) -> None:
    with torch.device("meta"):
        head = DINOv2Head(dim, out_dim=prototypes, bottleneck_dim=bottleneck)
        assert sum(p.numel() for p in head.parameters()) == count
        assert head(torch.zeros(2, 3, dim)).shape == (2, 3, prototypes)


def test_start_values() -> None:
    head = DINOv2Head(64, 128, 512, 16)
    for i in (0, 2, 4):
        assert head.mlp[i].weight.std().item() == pytest.approx(0.02, rel=0.1)
        assert not head.mlp[i].bias.any()
    v, g = head.last_layer.weight_v, head.last_layer.weight_g
    assert 0.95 * 16**-0.5 < v.abs().max().item() <= 16**-0.5
    assert v.std().item() == pytest.approx((16 * 3) ** -0.5, rel=0.05)
    assert (g == 1).all()
    assert g.requires_grad


def test_a_head_from_the_meta_device_starts_the_same() -> None:
    with torch.device("meta"):
        head = DINOv2Head(64, 128, 512, 16)
    head.to_empty(device="cpu").reset_parameters()
    assert (head.last_layer.weight_g == 1).all()
    assert head.mlp[2].weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert not head.mlp[4].bias.any()
    assert head(torch.randn(2, 64)).abs().max() <= 1.0001


def test_logits_are_cosines_times_the_gain() -> None:
    head = DINOv2Head(12, 16, 20, 8)
    gain = torch.rand(20) + 0.5
    head.last_layer.weight_g.data.copy_(gain[:, None])
    x = torch.randn(4, 12)
    expected = torch.zeros(4, 20)
    for i, z in enumerate(head.mlp(x)):
        for k, v in enumerate(head.last_layer.weight_v):
            expected[i, k] = gain[k] * torch.dot(z, v) / (z.norm() * v.norm())
    torch.testing.assert_close(head(x), expected, rtol=1e-4, atol=1e-6)


def test_every_parameter_gets_the_gradient_of_finite_differences() -> None:
    head = DINOv2Head(3, 4, 5, 2).double()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter)
    names = [name for name, _ in head.named_parameters()]
    x = torch.randn(2, 3, dtype=torch.float64)

    def call(*values: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(head, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(call, tuple(head.parameters()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_near_float32(dtype: torch.dtype) -> None:
    """Tiny bottleneck outputs, whose squares vanish in float16, still reach the unit sphere."""
    head = DINOv2Head(12, 16, 20, 8).eval()
    x = torch.randn(5, 12)
    exact = head(x)
    half = DINOv2Head(12, 16, 20, 8).to(dtype)
    half.load_state_dict(head.state_dict())
    got = half(x.to(dtype))
    assert got.dtype == dtype
    assert got.isfinite().all()
    torch.testing.assert_close(got.float(), exact, rtol=0.1, atol=0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(head(x).float(), exact, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_lengths_are_taken_in_float32(dtype: torch.dtype) -> None:
    """One rounding, at the end: the unit bottleneck, and the weights of the prototypes."""
    head = DINOv2Head(12, 16, 40, 32, nlayers=1).to(dtype)
    v = head.last_layer.weight_v.detach().float()
    prototypes = (v / v.norm(dim=1, keepdim=True)).to(dtype)
    torch.testing.assert_close(head.last_layer.weight, prototypes, rtol=0, atol=0)
    x = torch.randn(30, 12).to(dtype)
    z = head.mlp(x).detach().float()
    unit = (z / z.norm(dim=1, keepdim=True)).to(dtype)
    torch.testing.assert_close(head(x), unit @ prototypes.T, rtol=0, atol=0)


def test_zero_bottleneck_is_zero_not_nan() -> None:
    head = DINOv2Head(12, 16, 20, 8)
    head.mlp[4].weight.data.zero_()
    x = torch.randn(3, 12, requires_grad=True)
    head(x).sum().backward()
    assert not head(x).any()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_the_seed_head_is_normalised_and_warns() -> None:
    with pytest.warns(UserWarning, match="weight_norm"):
        head = DINOv2Head(12, 16, 20, output="seed")
    assert list(head.state_dict()) == KEYS[:6]
    assert head.state_dict()["mlp.4.weight"].shape == (20, 16)
    torch.testing.assert_close(head(torch.randn(4, 12)).norm(dim=-1), torch.ones(4))


def test_the_seed_head_warns_once() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(3):
            DINOv2Head(12, 16, 20, output="seed")
    assert len(caught) == 1


def test_no_layers_is_an_error() -> None:
    with pytest.raises(ConfigError, match="nlayers"):
        DINOv2Head(12, nlayers=0)
