"""Depth: losses and metrics against loops, heads against their description, the whole on drawn scenes."""

import logging
import math

import numpy as np
import pytest
import torch
from torch import nn

from nexus.errors import DataError
from nexus.evals import evaluate
from nexus.evals.dense.depth_heads import LinearDepthHead
from nexus.evals.dense.depth_losses import depth_loss, gradient_loss, sig_loss
from nexus.evals.dense.depth_metrics import METRICS, counted_part, counted_pixels, depth_metrics
from nexus.evals.dense.depth_scene import DepthScene
from nexus.evals.dense.depth_views import crop_size, pooled
from nexus.evals.dense.dpt import DPTHead
from nexus.evals.dense.maps import LayerMap
from nexus.evals.dense.views import Box
from nexus.evals.evaluation import plan
from tests.data.making_dense import save
from tests.evals.scenes import measured
from tests.evals.stubs import TinyBackbone

QUICK = [
    *("depth.iterations=40", "depth.resolution=32", "depth.views=4", "depth.learning_rates=[0.03]"),
]


def evaluated(data, *overrides, backbone=None, **settings):
    torch.manual_seed(0)
    backbone = backbone or TinyBackbone(dim=12)
    settings = {"device": "cpu", "baseline": False, **settings}
    return evaluate(data, backbone, "depth", overrides=[*QUICK, *overrides], **settings)


def depths(seed=0, invalid=0.3, shape=(2, 9, 11)):
    generator = torch.Generator().manual_seed(seed)
    true = 0.5 + 9 * torch.rand(shape, generator=generator)
    true[torch.rand(shape, generator=generator) < invalid] = 0
    predicted = 0.5 + 9 * torch.rand(shape, generator=generator)
    return predicted, true


# -- losses --------------------------------------------------------------------------------------


def test_sig_loss_is_the_formula():
    predicted, true = depths()
    errors = [
        math.log(p + 1e-3) - math.log(t + 1e-3)
        for p, t in zip(predicted.flatten().tolist(), true.flatten().tolist(), strict=True)
        if 0 < t <= 8
    ]
    mean = sum(errors) / len(errors)
    variance = sum((error - mean) ** 2 for error in errors) / (len(errors) - 1)
    expected = math.sqrt(variance + 0.15 * mean**2)
    assert sig_loss(predicted, true, 8.0).item() == pytest.approx(expected, rel=1e-5)
    assert sig_loss(2 * true.clamp(min=1), true.clamp(min=1), 99.0).item() == pytest.approx(
        math.sqrt(0.15) * math.log(2), rel=1e-2
    )


def test_gradient_loss_is_the_loop():
    predicted, true = depths(1)
    total = 0.0
    for stride in (1, 2, 4, 6):
        p, t = predicted[:, ::stride, ::stride], true[:, ::stride, ::stride]
        found, count = 0.0, 0
        for image in range(2):
            rows, cols = t.shape[1:]
            error = {}
            for y in range(rows):
                for x in range(cols):
                    if 0 < t[image, y, x] <= 8:
                        count += 1
                        logs = [math.log(v[image, y, x].item() + 1e-3) for v in (p, t)]
                        error[y, x] = logs[0] - logs[1]
            for (y, x), value in error.items():
                for other in ((y + 2, x), (y, x + 2)):
                    found += abs(value - error[other]) if other in error else 0.0
        total += found / max(1, count)
    assert gradient_loss(predicted, true, 8.0).item() == pytest.approx(total, rel=1e-4)
    joined = sig_loss(predicted, true, 8.0) + 0.5 * gradient_loss(predicted, true, 8.0)
    assert depth_loss(predicted, true, 8.0).item() == pytest.approx(joined.item())


def test_gradients_by_finite_differences():
    predicted, true = (one.double() for one in depths(2, shape=(1, 5, 6)))
    predicted.requires_grad_(True)
    assert torch.autograd.gradcheck(lambda p: sig_loss(p, true, 8.0), (predicted,))
    assert torch.autograd.gradcheck(lambda p: gradient_loss(p, true, 8.0), (predicted,))


def test_nothing_measured_costs_nothing():
    predicted = torch.rand(1, 4, 4, requires_grad=True)
    loss = depth_loss(predicted, torch.zeros(1, 4, 4), 10.0)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(predicted.grad, torch.zeros(1, 4, 4))
    true = 1 + torch.rand(1, 4, 4)
    perfect = true.clone().requires_grad_(True)
    depth_loss(perfect, true, 10.0).backward()
    assert perfect.grad.isfinite().all()


# -- metrics -------------------------------------------------------------------------------------


def test_metrics_by_hand():
    found = depth_metrics(torch.tensor([1.0, 4.0]), torch.tensor([2.0, 4.0]))
    assert found["RMSE"] == pytest.approx(math.sqrt(0.5))
    assert found["AbsRel"] == pytest.approx(0.25)
    assert found["log10"] == pytest.approx(math.log10(2) / 2)
    assert found["SILog"] == pytest.approx(100 * math.log(2) / 2)
    assert [found[f"delta{n}"] for n in (1, 2, 3)] == [0.5, 0.5, 0.5]
    scaled = depth_metrics(torch.tensor([2.4, 4.8]), torch.tensor([2.0, 4.0]))
    assert scaled["SILog"] == pytest.approx(0, abs=1e-4)
    assert [scaled[f"delta{n}"] for n in (1, 2, 3)] == [1.0, 1.0, 1.0]
    assert set(found) == set(METRICS)


def test_metrics_equal_torchmetrics():
    from torchmetrics.functional.regression import mean_absolute_percentage_error, mean_squared_error

    predicted, true = (one.flatten() for one in depths(3, invalid=0.0))
    found = depth_metrics(predicted, true)
    assert found["RMSE"] == pytest.approx(mean_squared_error(predicted, true, squared=False).item(), rel=1e-5)
    assert found["AbsRel"] == pytest.approx(mean_absolute_percentage_error(predicted, true).item(), rel=1e-5)


def test_scored_parts_are_the_published_ones():
    nyu = counted_part(480, 640, "nyu")
    assert nyu[45:471, 41:601].all()
    assert nyu.sum() == (471 - 45) * (601 - 41)
    garg = counted_part(375, 1242, "garg")
    rows, cols = garg.any(1).nonzero().flatten(), garg.any(0).nonzero().flatten()
    assert [int(rows[0]), int(rows[-1]) + 1, int(cols[0]), int(cols[-1]) + 1] == [153, 371, 44, 1197]
    true = torch.tensor([[0.0, 0.5, 5.0, 10.0, 12.0]])
    assert counted_pixels(true, "none", 1e-3, 10.0).tolist() == [[False, True, True, False, False]]


# -- heads, views, scenes ------------------------------------------------------------------------


def maps(layers, rows=3, cols=4, dim=6):
    torch.manual_seed(0)
    return tuple(LayerMap(torch.randn(2, dim, rows, cols), torch.randn(2, dim)) for _ in range(layers))


def test_linear_head_as_described():
    """Upsampled first, as the official head does it; ours computes the same with fewer channels."""
    head = LinearDepthHead(6, 2, 0.001, 10.0)
    found = head(maps(2))
    joined = torch.cat(
        [
            nn.functional.interpolate(
                torch.cat([m.patches, m.cls[:, :, None, None].expand(-1, -1, 3, 4)], 1),
                scale_factor=4,
                mode="bilinear",
            )
            for m in maps(2)
        ],
        dim=1,
    )
    scores = torch.einsum("bchw,kc->bkhw", joined, head.classify.weight[:, :, 0, 0])
    weights = (scores + head.classify.bias[:, None, None]).clamp(min=0) + 0.1
    depth = sum(
        w * b for w, b in zip((weights / weights.sum(1, keepdim=True)).unbind(1), head.bins, strict=True)
    )
    assert found.shape == (2, 1, 12, 16)
    assert torch.allclose(found[:, 0], depth, atol=1e-4)
    assert head.bins[0] == pytest.approx(0.001)
    assert head.bins[-1] == 10
    assert len(head.bins) == 256


@pytest.mark.parametrize("layers", [1, 2, 4])
def test_dpt_head(layers):
    head = DPTHead(6, channels=8, min_depth=0.5, seed=3)
    found = head(maps(layers))
    assert found.shape[:2] == (2, 1)
    assert min(found.shape[2:]) >= 8 * 3
    assert (found >= 0.5).all()
    found.sum().backward()
    assert all(p.grad is not None for name, p in head.named_parameters())
    again = DPTHead(6, channels=8, min_depth=0.5, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(head.parameters(), again.parameters(), strict=True))


def test_pooled_truth_keeps_every_point():
    rng = np.random.default_rng(0)
    truth = np.where(rng.random((20, 30)) < 0.1, rng.uniform(1, 9, (20, 30)), 0).astype(np.float32)
    box = Box((10, 15), 2, 3, 6, 8)
    found = pooled(truth, box)
    for row in range(6):
        for col in range(8):
            beneath = truth[2 * (row + 2) : 2 * (row + 3), 2 * (col + 3) : 2 * (col + 4)]
            expected = beneath[beneath > 0].mean() if (beneath > 0).any() else 0
            assert found[row, col] == pytest.approx(expected, rel=1e-5)
    assert pooled(truth, Box((40, 60), 0, 0, 40, 60))[::2, ::2] == pytest.approx(truth)


def test_limits_are_round_and_crops_whole_patches():
    assert DepthScene(1.0, torch.ones(2, 2), 4.2).limit() == 5
    assert DepthScene(1.0, torch.ones(2, 2), 76.0).limit() == 80
    assert crop_size((480, 640), 14) == (406, 546)
    assert crop_size((8, 8), 8) == (8, 8)


# -- the whole -----------------------------------------------------------------------------------


@pytest.mark.parametrize("sparse", [False, True])
def test_what_is_planted_is_found(tmp_path, sparse):
    backbone = TinyBackbone(dim=12)
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    more = () if sparse else ("depth.learning_rates=[0.00001,0.03]",)
    result = evaluated(measured(tmp_path, sparse=sparse), *more, backbone=backbone)
    found = result["depth"]
    assert found["value"] < 0.7 * found["chance"]
    assert found["interval"][0] <= found["value"] <= found["interval"][1]
    assert not found["higher_is_better"]
    assert found["unit"] == "m"
    assert found["max_depth"] == 10
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    if not sparse:
        assert found["learning_rate"] == 0.03


def test_noise_is_not_found(tmp_path):
    result = evaluated(measured(tmp_path, 15, noise=True), seeds=2)
    found = result["depth"]
    assert found["interval"][1] >= 0.95 * found["chance"]
    assert len(set(found["seeds"])) == 2


def test_dpt_and_pictures(tmp_path):
    overrides = [*QUICK, "depth.heads=[dpt,linear4]", "depth.channels=8", "depth.iterations=3"]
    todo = plan(str(measured(tmp_path)), "depth", overrides=overrides, device="cpu")
    result = todo.run(todo.context(TinyBackbone(dim=12)))["depth"]
    assert math.isfinite(result.value)
    assert list(result.parts) == ["linear4"]
    raw = todo.run(todo.context(TinyBackbone(dim=12)).on_pixels())["depth"]
    assert raw.names == result.names
    (picture,) = result.pictures()
    assert "metres" not in picture.title
    assert picture.image.width == 4 * 326 - 6
    assert result.details["layers"] == [1, 2, 3]


def test_wrong_data(tmp_path, caplog):
    measured(tmp_path)
    with pytest.raises(DataError, match=r"no training image has a measured depth.*depth\.scale"):
        evaluated(tmp_path, "depth.max_depth=0.1")
    save(tmp_path / "depth" / "test" / "08.png", np.zeros((32, 40), np.uint16))
    with caplog.at_level(logging.WARNING):
        found = evaluated(tmp_path, "depth.eval_crop=garg", "depth.scale=1", "depth.max_depth=9999")["depth"]
    assert "is the unit right?" in caplog.text
    assert found["unmeasured"] == ["08.png"]
    assert found["samples"] == 3
    for file in (tmp_path / "depth" / "test").glob("*.png"):
        save(file, np.zeros((32, 40), np.uint16))
    with pytest.raises(DataError, match=r"no test image.*scored part \(none\).*depth\.scale"):
        evaluated(tmp_path)
