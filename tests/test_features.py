"""Extraction: order, faults, eval mode, sizes, precision; against a plain loop over the images."""

import logging

import pytest
import torch

from nexus.data.batch import normalize
from nexus.data.transforms import IMAGENET_MEAN, IMAGENET_STD, EvalTransform
from nexus.errors import ConfigError, DataError
from nexus.features import extract, image_size, iterate, pick_device, raw_pixels
from tests.evals.stubs import MemoryImages, TinyBackbone


def naive(backbone, dataset, size=32, resize=None):
    """One image at a time, straight from the definition."""
    backbone.eval()
    crop = EvalTransform(resize, size) if resize else EvalTransform.for_size(size)
    rows = []
    for index in range(len(dataset)):
        if index in dataset.broken:
            continue
        pixels = crop(dataset[index].image)[None]
        x = normalize(pixels, torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD))
        with torch.no_grad():
            rows.append(backbone.get_intermediate_layers(x, 3, return_class_token=True))
    return rows


@pytest.mark.parametrize("batch_size", [1, 4, 64])
@pytest.mark.parametrize("broken", [(), (0, 5, 10), (0, 1, 2, 3, 8, 9, 10)])
def test_extract_equals_a_plain_loop(batch_size, broken):
    backbone, images = TinyBackbone(), MemoryImages(broken=broken)
    features = extract(backbone, images, size=32, batch_size=batch_size, layers=2)
    rows = naive(backbone, images)
    good = [i for i in range(11) if i not in broken]
    assert features.names == tuple(images.name(i) for i in good) == features.paths
    assert features.labels.tolist() == [i % 3 for i in good]
    assert [(f.name, f.reason) for f in features.faults] == [(images.name(i), "truncated") for i in broken]
    for i, layers in enumerate(rows):
        patches, cls = layers[-1]
        torch.testing.assert_close(features.cls[i], cls[0])
        torch.testing.assert_close(features.mean_patch[i], patches[0].mean(0))
        expected = torch.stack([layers[-2][1][0], layers[-1][1][0]])
        torch.testing.assert_close(features.layer_cls[i], expected)
    assert features.cls.dtype == torch.float32
    assert len(features) == len(good)


def test_workers_change_nothing():
    backbone, images = TinyBackbone(), MemoryImages(broken=(2,))
    alone = extract(backbone, images, size=32, batch_size=3)
    loaded = extract(backbone, images, size=32, batch_size=3, workers=1)
    assert torch.equal(alone.cls, loaded.cls)
    assert alone.names == loaded.names
    assert alone.faults == loaded.faults


def test_training_flags_come_back_and_no_random_number_is_drawn():
    backbone, images = TinyBackbone(), MemoryImages()
    backbone.train()
    backbone.blocks[1].eval()
    state = torch.get_rng_state()
    features = extract(backbone, images, size=32)
    assert torch.equal(state, torch.get_rng_state())
    assert backbone.training
    assert not backbone.blocks[1].training
    assert backbone.was_training == [False]
    assert not features.cls.requires_grad


def test_training_flags_come_back_when_the_caller_stops_early():
    backbone = TinyBackbone().train()
    rows = iterate(backbone, MemoryImages())
    next(rows)
    assert not backbone.training
    rows.close()
    assert backbone.training


def test_bf16_is_close_and_returns_float32():
    backbone, images = TinyBackbone(), MemoryImages()
    full = extract(backbone, images, size=32)
    half = extract(backbone, images, size=32, precision="bf16")
    assert half.cls.dtype == torch.float32
    assert not torch.equal(full.cls, half.cls)
    torch.testing.assert_close(full.cls, half.cls, atol=0.03, rtol=0.05)


def test_size_is_a_multiple_of_the_patch_and_said(caplog):
    backbone = TinyBackbone(patch=8)
    with caplog.at_level(logging.INFO, logger="nexus.features"):
        assert image_size(backbone, 30) == 32
    assert "using 32" in caplog.text
    assert image_size(backbone) == 224
    backbone.config = type("Config", (), {"img_size": 48})()
    assert image_size(backbone) == 48
    features = extract(backbone, MemoryImages(count=2), batch_size=2)
    assert backbone.shapes[-1] == (2, 3, 48, 48)
    assert features.size == 48


def test_resize_and_normalisation_reach_the_pixels():
    backbone, images = TinyBackbone(), MemoryImages(count=3)
    features = extract(backbone, images, size=32, resize=32)
    expected = torch.cat([layers[-1][1] for layers in naive(backbone, images, 32, 32)])
    torch.testing.assert_close(features.cls, expected)
    other = extract(backbone, images, size=32, resize=32, mean=(0.5,) * 3, std=(0.5,) * 3)
    assert not torch.allclose(other.cls, features.cls)
    backbone.normalization = ((0.5,) * 3, (0.5,) * 3)
    own = extract(backbone, images, size=32, resize=32)
    torch.testing.assert_close(own.cls, other.cls)


def test_flip_mirrors():
    backbone, images = TinyBackbone(), MemoryImages(count=3, side=32)
    images.pixels = images.pixels[:, :, :32]
    mirrored = MemoryImages(count=3, side=32)
    mirrored.pixels = images.pixels[:, :, ::-1].copy()
    flipped = extract(backbone, images, size=32, resize=32, flip=True)
    torch.testing.assert_close(flipped.cls, extract(backbone, mirrored, size=32, resize=32).cls)


def test_layers_are_clipped_to_the_depth_and_progress_counts_faults():
    seen = []
    features = extract(
        TinyBackbone(blocks=2),
        MemoryImages(broken=(1,)),
        size=32,
        layers=4,
        batch_size=4,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert features.layer_cls.shape == (10, 2, 6)
    assert seen == [(4, 11), (8, 11), (11, 11)]


def test_unlabelled_unreadable_and_misspelt():
    assert extract(TinyBackbone(), MemoryImages(classes=0), size=32).labels is None
    with pytest.raises(DataError, match="none of the 3 images"):
        extract(TinyBackbone(), MemoryImages(count=3, broken=(0, 1, 2)), size=32)
    with pytest.raises(DataError, match="none of the 0 images"):
        extract(TinyBackbone(), MemoryImages(count=0), size=32)
    with pytest.raises(ConfigError, match="batch_sise"):
        extract(TinyBackbone(), MemoryImages(), batch_sise=3)
    with pytest.raises(ConfigError, match="bf16"):
        extract(TinyBackbone(), MemoryImages(), precision="bf61")
    with pytest.raises(ConfigError, match="at least 1"):
        extract(TinyBackbone(), MemoryImages(), batch_size=0)
    assert pick_device("cpu") == torch.device("cpu")


def test_raw_pixels_are_the_shrunken_normalised_image():
    images = MemoryImages(count=3, side=32, broken=(1,))
    images.pixels = images.pixels[:, :, :32]
    raw = raw_pixels(images, 16)
    assert raw.cls.shape == (2, 3 * 16 * 16)
    assert raw.labels.tolist() == [0, 2]
    boxes = torch.from_numpy(images.pixels[0]).permute(2, 0, 1).float()
    boxes = torch.nn.functional.avg_pool2d(boxes, 2) / 255
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    expected = ((boxes - mean) / std).flatten()
    torch.testing.assert_close(raw.cls[0], expected, atol=0.02, rtol=0)


def test_rows_pick_in_order():
    features = extract(TinyBackbone(), MemoryImages(), size=32)
    some = features.rows(torch.tensor([4, 1]))
    assert some.names == (features.names[4], features.names[1])
    assert torch.equal(some.cls, features.cls[[4, 1]])
    assert some.labels.tolist() == [1, 1]
