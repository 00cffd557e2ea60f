"""Segmentation: every part against a naive one, and the whole on scenes whose answer is known."""

import itertools
import logging

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from nexus.data.dense import VOID, DenseSample
from nexus.errors import ConfigError, DataError
from nexus.evals import evaluate
from nexus.evals.dense.confusion import Counts, confusion
from nexus.evals.dense.label_pictures import class_colours, errors
from nexus.evals.dense.label_views import label_view
from nexus.evals.dense.maps import LayerMap, spread_layers
from nexus.evals.dense.segmentation_heads import LinearHead, NeighborHead, patch_labels, segmentation_loss
from nexus.evals.dense.sliding import slide, window_corners, window_starts
from nexus.evals.dense.splitting import held_out_rows
from nexus.evals.dense.training import train_heads
from nexus.evals.dense.views import Box, cut
from nexus.evals.evaluation import plan
from tests.data.making_dense import save
from tests.evals.scenes import labelled
from tests.evals.stubs import TinyBackbone

QUICK = [
    *("segmentation.iterations=40", "segmentation.crop=16", "segmentation.resolution=32"),
    *("segmentation.views=4", "segmentation.memory=300", "segmentation.learning_rates=[0.03]"),
]


def evaluated(data, *overrides, backbone=None, **settings):
    torch.manual_seed(0)
    backbone = backbone or TinyBackbone(dim=12)
    settings = {"device": "cpu", "baseline": False, **settings}
    return evaluate(data, backbone, "segmentation", overrides=[*QUICK, *overrides], **settings)


# -- metrics -------------------------------------------------------------------------------------


def pair(classes=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randint(-1, classes, (9, 7), generator=generator)
    return truth, torch.randint(0, classes, (9, 7), generator=generator)


def test_miou_by_hand():
    truth = torch.tensor([[0, 0, 1], [1, VOID, 1]])
    counts = Counts.of([confusion(truth, torch.tensor([[0, 1, 1], [1, 0, 0]]), 3)])
    assert counts.ious() == [pytest.approx(1 / 3), pytest.approx(2 / 4), None]
    assert counts.miou() == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert counts.accuracy() == pytest.approx(3 / 5)


def test_miou_equals_torchmetrics():
    from torchmetrics.classification import MulticlassJaccardIndex

    pairs = [pair(seed=seed) for seed in range(5)]
    reference = MulticlassJaccardIndex(4, ignore_index=VOID, average="none")
    for truth, predicted in pairs:
        reference.update(predicted, truth)
    counts = Counts.of([confusion(*one, 4) for one in pairs])
    assert counts.ious() == pytest.approx(reference.compute().tolist())
    picked = torch.tensor([3, 3, 0])
    again = Counts.of([confusion(*pairs[i], 4) for i in picked.tolist()])
    assert counts.miou(picked) == pytest.approx(again.miou())


# -- windows -------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [8, 9, 13, 16, 40])
def test_windows_cover_and_stay_inside(length):
    starts = window_starts(length, 8, 5)
    assert starts[0] == 0
    assert starts[-1] == max(0, length - 8)
    assert len(set(starts)) == len(starts)
    assert all(later - earlier <= 5 for earlier, later in itertools.pairwise(starts))


class PatchHead(nn.Module):
    """A fixed function of the patches, so that windows can be checked one by one."""

    def forward(self, maps):
        return torch.cat([maps[0].patches, maps[0].patches ** 2], dim=1)


def test_every_pixel_is_the_mean_of_its_windows():
    pixels = torch.randint(0, 256, (3, 20, 29), dtype=torch.uint8)

    def look(windows):
        # A border effect: the mean of the window is in every patch, as attention would have it.
        means = F.avg_pool2d(windows.float(), 4) + windows.float().mean((1, 2, 3), keepdim=True)
        return (LayerMap(means, means.mean((2, 3))),)

    (found,) = slide(pixels, [PatchHead()], look, window=12, batch=2)
    corners = window_corners(20, 29, 12)
    assert corners == [(t, left) for t in (0, 8) for left in (0, 8, 16, 17)]
    total, count = torch.zeros(6, 20, 29), torch.zeros(20, 29)
    for top, left in corners:
        maps = look(pixels[None, :, top : top + 12, left : left + 12])
        output = F.interpolate(PatchHead()(maps), size=(12, 12), mode="bilinear", align_corners=False)
        total[:, top : top + 12, left : left + 12] += output[0]
        count[top : top + 12, left : left + 12] += 1
    assert count.min() >= 1
    assert torch.allclose(found, total / count, rtol=1e-5)


# -- views ---------------------------------------------------------------------------------------


def sample(height=60, width=90, truth_scale=1.0, seed=0):
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (height // 6, width // 6, 3), dtype=np.uint8)
    image = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
    shape = (round(height * truth_scale), round(width * truth_scale))
    return DenseSample(image, rng.integers(0, 5, shape).astype(np.int32), "x.png")


def test_a_cut_is_the_crop_of_the_resized_image():
    one = sample()
    box = Box((30, 45), 4, 7, 16, 20)
    view = cut(one, box, (16, 20), VOID)
    resized = np.asarray(one.image.resize((45, 30), Image.Resampling.BICUBIC)).astype(float)
    expected = resized[4:20, 7:27].transpose(2, 0, 1)
    assert abs(view.pixels.numpy().astype(float) - expected)[:, 2:-2, 2:-2].max() <= 1
    for row in range(16):
        for col in range(20):
            y, x = int((4 + row + 0.5) * 2), int((7 + col + 0.5) * 2)
            assert view.truth[row, col] == one.truth[y, x]
    mirrored = cut(one, box, (16, 20), VOID, flip=True)
    assert torch.equal(mirrored.pixels, view.pixels.flip(-1))
    assert torch.equal(mirrored.truth, view.truth.flip(-1))


def test_truth_of_another_size_and_small_images():
    one = sample(truth_scale=0.5)
    view = cut(one, Box((60, 90), 0, 0, 60, 90), (64, 96), VOID)
    assert torch.equal(view.truth[:60:2, :90:2], torch.from_numpy(one.truth))
    assert (view.truth[60:] == VOID).all()
    assert (view.truth[:, 90:] == VOID).all()
    assert view.pixels[:, 62, 92].tolist() == [124, 116, 104]


def test_views_avoid_a_single_class():
    one = sample(60, 60)
    one.truth[:, :50] = 1
    views = [label_view(one, np.random.default_rng(i), resolution=60, crop=16) for i in range(30)]
    assert all(view.pixels.shape == (3, 16, 16) for view in views)
    shares = [float((v.truth[v.truth != VOID] == 1).float().mean()) for v in views]
    assert np.mean([share > 0.75 for share in shares]) < 0.6
    again = label_view(one, np.random.default_rng(3), resolution=60, crop=16)
    assert torch.equal(again.pixels, views[3].pixels)


# -- heads ---------------------------------------------------------------------------------------


def test_patch_labels_by_counting():
    truth = torch.randint(-1, 3, (2, 9, 8))
    found = patch_labels(truth, 4, 3)
    assert found.shape == (2, 2, 2)
    for b in range(2):
        for row in range(2):
            for col in range(2):
                pixels = truth[b, 4 * row : 4 * row + 4, 4 * col : 4 * col + 4].flatten().tolist()
                known = [value for value in pixels if value != VOID]
                commonest = min(set(known), key=lambda value: (-known.count(value), value))
                assert found[b, row, col] == (VOID if len(known) <= 8 else commonest)


def test_neighbours_vote_as_in_a_loop():
    memory, labels = torch.randn(30, 6), torch.randint(0, 4, (30,))
    head = NeighborHead(memory, labels, 4, neighbors=5, temperature=0.1)
    patches = torch.randn(2, 6, 2, 3)
    found = head((LayerMap(patches, torch.randn(2, 6)),))
    for b, row, col in np.ndindex(2, 2, 3):
        cosines = [float(F.cosine_similarity(patches[b, :, row, col], one, dim=0)) for one in memory]
        nearest = sorted(range(30), key=lambda i: -cosines[i])[:5]
        weights = np.exp(np.array([cosines[i] for i in nearest]) / 0.1)
        votes = np.zeros(4)
        for weight, i in zip(weights / weights.sum(), nearest, strict=True):
            votes[labels[i]] += weight
        assert found[b, :, row, col].numpy() == pytest.approx(votes, abs=1e-5)


def test_loss_leaves_void_out():
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    truth = torch.tensor([[[0, VOID], [2, 1]]])
    log = logits.log_softmax(1)[0]
    expected = -(log[0, 0, 0] + log[2, 1, 0] + log[1, 1, 1]) / 3
    assert segmentation_loss(logits, truth).item() == pytest.approx(expected.item(), rel=1e-6)
    assert segmentation_loss(logits, torch.full((1, 2, 2), VOID)).item() == 0


def test_heads_trained_together_are_heads_trained_alone():
    batches = [
        ((LayerMap(torch.randn(4, 5, 2, 2), torch.randn(4, 5)),), torch.randint(-1, 3, (4, 8, 8)))
        for _ in range(6)
    ]

    def trained(rates):
        heads = [LinearHead(5, 3, seed=1) for _ in rates]
        train_heads(heads, rates, batches, 6, segmentation_loss, weight_decay=0.1, warmup=0.3)
        return heads

    together = trained([1e-3, 1e-1])
    for head, rate in zip(together, (1e-3, 1e-1), strict=True):
        (alone,) = trained([rate])
        for one, other in zip(head.parameters(), alone.parameters(), strict=True):
            assert torch.allclose(one, other, atol=1e-6)


def test_held_out_rows_and_layers():
    kept, held = held_out_rows(10, 0.2, 0)
    assert len(held) == 2
    assert sorted(kept + held) == list(range(10))
    assert held_out_rows(1, 0.2, 0) == ([0], [0])
    assert [spread_layers(depth) for depth in (12, 24, 40, 4, 2, 1)] == [
        (3, 6, 9, 12),
        (5, 12, 18, 24),
        (10, 20, 30, 40),
        (1, 2, 3, 4),
        (1, 2),
        (1,),
    ]


# -- the whole -----------------------------------------------------------------------------------


def test_what_is_planted_is_found(tmp_path):
    backbone = TinyBackbone(dim=12)
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    more = ("segmentation.heads=[linear,ms,knn]", "segmentation.learning_rates=[0.00001,0.03]")
    result = evaluated(labelled(tmp_path), *more, "segmentation.scales=[1,1.5]", backbone=backbone)
    found = result["segmentation"]
    assert found["value"] > 0.65 > 0.5 > found["chance"]
    assert found["interval"][0] <= found["value"] <= found["interval"][1]
    assert found["held_out"]["0.03"] > found["held_out"]["1e-05"]
    assert found["learning_rate"] == 0.03
    assert set(found["IoU"]) == {"red", "green", "blue"}
    assert {row["task"] for row in result["table"]} >= {"segmentation", "segmentation/ms", "segmentation/knn"}
    assert all(row["value"] > 0.6 for row in result["table"])
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    assert not any(parameter.grad is not None for parameter in backbone.parameters())
    assert found["split"].startswith("training on the split 'train'")


def test_noise_is_not_found(tmp_path):
    result = evaluated(labelled(tmp_path, 18, noise=True), seeds=2, baseline=True)
    found = result["segmentation"]
    assert len(set(found["seeds"])) == 2
    assert found["value"] == pytest.approx(sum(found["seeds"]) / 2)
    assert result["baseline"]["segmentation"]["samples"] == 6
    assert found["interval"][0] <= found["chance"]
    assert found["pixel_accuracy"] < 0.45


def test_pictures(tmp_path):
    todo = plan(str(labelled(tmp_path)), "segmentation", overrides=QUICK, device="cpu")
    result = todo.run(todo.context(TinyBackbone(dim=12)))["segmentation"]
    (picture,) = result.pictures()
    assert "linear" in picture.title
    assert picture.image.width == 4 * 326 - 6
    assert len({tuple(colour) for colour in class_colours(150).tolist()}) == 150
    truth = np.array([[0, 1], [VOID, 1]], dtype=np.int32)
    shown = np.asarray(errors(Image.new("RGB", (2, 2), "white"), truth, np.array([[0, 0], [0, 1]])))
    assert shown[1, 0].tolist() == [0, 0, 0]
    assert shown[0, 1, 0] > 2 * shown[0, 1, 1]
    assert len(set(shown[0, 0].tolist())) == 1


def test_an_unreadable_image_is_left_out(tmp_path):
    labelled(tmp_path)
    for split in ("train", "test"):
        file = sorted((tmp_path / "images" / split).iterdir())[0]
        file.write_bytes(file.read_bytes()[:60])
    result = evaluated(tmp_path, "segmentation.heads=[knn]")
    assert result["unreadable"] == ["08.png"]
    assert result["segmentation"]["samples"] == 3


def test_wrong_data(tmp_path):
    labelled(tmp_path / "a")
    mask = tmp_path / "a" / "masks" / "test" / "09.png"
    save(mask, np.full((32, 40), 7, dtype=np.uint8))
    with pytest.raises(DataError, match=r"09\.png has the number 7, but there are 3 classes"):
        evaluated(tmp_path / "a", "segmentation.heads=[knn]")
    assert evaluated(tmp_path / "a", "segmentation.ignore=[255,7]", "segmentation.heads=[knn]")
    for file in (tmp_path / "a" / "masks").rglob("*.png"):
        save(file, np.full((32, 40), 255, dtype=np.uint8))
    with pytest.raises(DataError, match="every pixel is void"):
        evaluated(tmp_path / "a")


def test_one_patch_is_not_enough(tmp_path):
    with pytest.raises(ConfigError, match="one patch"):
        evaluated(labelled(tmp_path, 3), "segmentation.crop=8", "segmentation.batch_size=1")


def test_one_void_image_counts_nothing(tmp_path, caplog):
    labelled(tmp_path)
    save(tmp_path / "masks" / "test" / "09.png", np.full((32, 40), 255, dtype=np.uint8))
    with caplog.at_level(logging.INFO):
        found = evaluated(tmp_path, "segmentation.heads=[knn]")["segmentation"]
    assert found["samples"] == 4
    assert found["value"] > 0.7
    assert "crops and windows of 16" in caplog.text
