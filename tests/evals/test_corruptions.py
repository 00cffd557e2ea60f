"""Corruptions: repeatable, stronger with severity, at home in every size, and each what its name says."""

import numpy as np
import pytest
from PIL import Image

from nexus.data.datasets import open_dataset
from nexus.errors import ConfigError
from nexus.evals.corruptions import GROUPS, KINDS, CorruptedDataset, corrupt
from nexus.evals.corruptions.blur import disc, line


def scene(side=112):
    """Shapes, a gradient and some texture: something that every corruption changes."""
    rows, cols = np.mgrid[:side, :side] / side
    grain = 0.1 * np.random.default_rng(0).normal(size=(side, side, 1))
    pixels = np.stack([rows, cols, 0.5 + 0.3 * np.sin(cols * 25)], axis=2)
    pixels[(rows - 0.5) ** 2 + (cols - 0.4) ** 2 < 0.04] = (0.9, 0.2, 0.1)
    return (255 * np.clip(pixels + grain, 0, 1)).astype(np.uint8)


def distance(a, b):
    return float(np.abs(a.astype(float) - b.astype(float)).mean())


def test_there_are_fifteen_in_four_groups():
    assert len(KINDS) == 15
    assert GROUPS == ("noise", "blur", "weather", "digital")


@pytest.mark.parametrize("kind", KINDS)
def test_each_gets_stronger_and_is_repeatable(kind):
    clean = scene()
    made = [corrupt(clean, kind, severity, name="a") for severity in range(1, 6)]
    assert all(one.shape == clean.shape and one.dtype == np.uint8 for one in made)
    distances = [distance(one, clean) for one in made]
    assert distances[0] > 0.5
    assert distances[0] < distances[2] < distances[4] < 130
    assert np.array_equal(corrupt(clean, kind, 3, name="a"), made[2])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 1), (7, 3), (33, 90)])
def test_every_size_survives(kind, shape):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    for severity in (1, 5):
        assert corrupt(pixels, kind, severity).shape == pixels.shape


@pytest.mark.parametrize("kind", ["gaussian_noise", "glass_blur", "motion_blur", "snow", "frost", "fog"])
def test_chance_differs_between_images_and_seeds(kind):
    first = corrupt(scene(), kind, 3, name="a")
    assert not np.array_equal(corrupt(scene(), kind, 3, name="b"), first)
    assert not np.array_equal(corrupt(scene(), kind, 3, name="a", seed=1), first)


def test_noise_has_the_strength_that_the_register_says():
    grey = np.full((300, 300, 3), 128, dtype=np.uint8)
    noise = corrupt(grey, "gaussian_noise", 2).astype(float) / 255
    assert noise.std() == pytest.approx(KINDS["gaussian_noise"].strengths[1], rel=0.02)
    photons = KINDS["shot_noise"].strengths[0]
    shot = corrupt(grey, "shot_noise", 1).astype(float) / 255
    assert shot.std() == pytest.approx(np.sqrt(128 / 255 / photons), rel=0.02)
    hit = (corrupt(grey, "impulse_noise", 3) != 128).mean()
    assert hit == pytest.approx(KINDS["impulse_noise"].strengths[2], rel=0.05)


def test_contrast_brightness_and_pixelate_do_what_they_say():
    clean = scene(224)
    flat = corrupt(clean, "contrast", 2).astype(float)
    assert flat.std(axis=(0, 1)) == pytest.approx(0.34 * clean.std(axis=(0, 1)), rel=0.02)
    assert corrupt(clean, "brightness", 3).mean() > clean.mean() + 20
    squares = corrupt(clean, "pixelate", 5)  # 32 squares of 7 pixels
    assert np.array_equal(squares[::7, ::7].repeat(7, axis=0).repeat(7, axis=1), squares)


def test_kernels_are_discs_and_lines():
    kernel = disc(6.0)
    assert kernel.sum() == pytest.approx(1)
    assert kernel.max() == pytest.approx(1 / (np.pi * 36), rel=0.02)
    assert np.allclose(kernel, kernel[::-1, ::-1])
    flat = line(9, 0.0)
    assert flat[len(flat) // 2].sum() == pytest.approx(1, abs=1e-3)
    assert np.allclose(line(9, np.pi / 2), flat.T, atol=1e-3)


def test_a_data_set_is_resized_then_corrupted(tmp_path):
    for i in range(3):
        Image.fromarray(scene(80)).resize((100, 80)).save(tmp_path / f"{i}.png")
    base = open_dataset(tmp_path)
    bad = CorruptedDataset(base, "fog", 4, side=40, seed=2)
    assert len(bad) == 3
    assert bad[1].image.size == (50, 40)
    assert bad[1].name == bad.name(1) == "1.png"
    part = CorruptedDataset(base.subset([1]), "fog", 4, side=40, seed=2)
    assert np.array_equal(np.asarray(part[0].image), np.asarray(bad[1].image))
    assert "fog 4 of 5" in bad.description


def test_an_unknown_kind_names_the_nearest():
    with pytest.raises(ConfigError, match="motion_blur"):
        corrupt(scene(), "motion_blurr", 1)
