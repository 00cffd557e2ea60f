"""Vital signs against loops and closed forms, and what must not change them."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from nexus.health import pixels, signs
from nexus.losses import likeness_of, spread_of


def directions(count: int, samples: int = 60, dim: int = 12) -> Tensor:
    """Features around 0 that use `count` directions equally."""
    basis = torch.linalg.qr(torch.randn(dim, dim))[0][:count]
    scores = torch.linalg.qr(torch.randn(samples, count))[0]
    scores = torch.linalg.qr(scores - scores.mean(dim=0))[0]
    return scores @ basis


def cosines(x: Tensor) -> list[list[float]]:
    rows = x.double().tolist()
    return [
        [sum(p * q for p, q in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b)) for b in rows]
        for a in rows
    ]


@pytest.mark.parametrize("count", [1, 3, 7])
def test_ranks_count_directions(count: int) -> None:
    x = directions(count)
    assert signs.rankme(x) == pytest.approx(count, rel=1e-3)
    assert signs.effective_rank(x) == pytest.approx(count, rel=1e-3)


def test_rankme_by_its_formula() -> None:
    x = torch.randn(30, 8)
    values = np.linalg.svd(x.double().numpy(), compute_uv=False)
    shares = values / values.sum()
    assert signs.rankme(x) == pytest.approx(math.exp(-(shares * np.log(shares)).sum()), rel=1e-4)


def test_a_shared_direction_counts_for_rankme_only() -> None:
    x = directions(3)
    assert signs.effective_rank(x + 100.0) == pytest.approx(3, rel=0.05)
    assert signs.rankme(x + 100.0) < 1.1


def test_equal_features_have_no_rank() -> None:
    x = torch.randn(1, 16).expand(20, 16)
    assert signs.effective_rank(x) == 0.0
    assert signs.alpha_req(x) == 0.0
    assert signs.nearest_distance(x) == pytest.approx(0.0, abs=1e-3)
    assert signs.retrieval(x, x) == 0.0
    assert float(spread_of(x)) == pytest.approx(0.0, abs=1e-6)
    assert float(likeness_of(x)) == pytest.approx(1.0, abs=1e-6)


def test_alpha_is_the_exponent_of_a_power_law() -> None:
    x = directions(10, dim=10) * torch.arange(1, 11).pow(-0.75)[None] ** 1.0
    basis = torch.eye(10)
    scores = torch.linalg.qr(torch.randn(80, 10))[0]
    scores = torch.linalg.qr(scores - scores.mean(dim=0))[0]
    x = scores * torch.arange(1, 11).float().pow(-0.75) @ basis  # eigenvalues i^-1.5
    assert signs.alpha_req(x) == pytest.approx(1.5, rel=1e-3)


def test_lidar_sees_what_crops_share() -> None:
    base, noise = 3.0 * directions(4, dim=8), 0.02 * torch.randn(2, 60, 8)
    ours = signs.lidar(base + noise[0], base + noise[1])
    assert 3.5 < ours < 5.0
    assert signs.lidar(5 * (base + noise[0]), 5 * (base + noise[1])) == pytest.approx(ours, rel=1e-2)


def test_cosine_and_distance_by_loops() -> None:
    x = torch.randn(9, 5)
    table = cosines(x)
    others = [[table[i][j] for j in range(9) if j != i] for i in range(9)]
    assert float(likeness_of(x)) == pytest.approx(sum(map(sum, others)) / 72, rel=1e-4)
    expected = sum(math.sqrt(2 - 2 * max(row)) for row in others) / 9
    assert signs.nearest_distance(x) == pytest.approx(expected, rel=1e-3)


def test_retrieval_by_loops() -> None:
    a, b = torch.randn(20, 6), torch.randn(20, 6)
    b[:7] = a[:7] + 0.01 * torch.randn(7, 6)
    mean = torch.cat([a, b]).mean(dim=0)
    hits = 0
    for i in range(20):
        scores = [torch.cosine_similarity(a[i] - mean, b[j] - mean, dim=0).item() for j in range(20)]
        hits += scores.index(max(scores)) == i
    assert signs.retrieval(a, b) == pytest.approx(hits / 20)
    assert hits >= 7


def test_outliers_are_long_patches() -> None:
    patches = torch.nn.functional.normalize(torch.randn(4, 25, 8), dim=2) * (10 + torch.rand(4, 25, 1))
    assert signs.outliers(patches) == 0.0
    patches[0, :5] *= 8.0
    assert signs.outliers(patches) == pytest.approx(0.05)


def test_prototypes_in_use() -> None:
    assert signs.prototypes_in_use(torch.full((5, 40), 1 / 40)) == pytest.approx(40, rel=1e-4)
    assert signs.prototypes_in_use(torch.eye(40)[[3, 3, 3]]) == pytest.approx(1, rel=1e-4)
    assert signs.prototypes_in_use(torch.eye(40)[[1, 2, 3, 4]]) == pytest.approx(4, rel=1e-4)


def test_half_precision_is_raised() -> None:
    x = torch.randn(16, 8)
    assert signs.rankme(x.half()) == pytest.approx(signs.rankme(x), rel=1e-2)


# -- pixels ---------------------------------------------------------------------------------------


def pictures(count: int = 12) -> Tensor:
    return torch.nn.functional.interpolate(torch.rand(count, 3, 16, 16), 32)


def test_brightness_and_contrast_are_no_blur() -> None:
    x = pictures()
    assert pixels.detail_kept(x, 0.4 * x + 0.3) == pytest.approx(1.0, abs=1e-3)
    assert pixels.colour_kept(x, 0.4 * x + 0.3) == pytest.approx(1.0, abs=1e-3)


def test_blur_takes_detail_and_leaves_colour() -> None:
    x = pictures()
    blurred = torch.nn.functional.avg_pool2d(x, 7, stride=1, padding=3, count_include_pad=False)
    assert pixels.detail_kept(x, blurred) < 0.6
    assert pixels.colour_kept(x, blurred) > pixels.colour_kept(x, 1 - x) == pytest.approx(-1.0, abs=1e-3)


def test_copies_are_counted_from_a_sample() -> None:
    originals = torch.rand(200, 64)
    everything = originals.repeat(5, 1)  # four copies of each
    sample = everything[torch.randperm(1000)[:300]]
    assert pixels.copies(sample, 1000) == pytest.approx(4.0, rel=0.25)
    assert pixels.copies(originals, 200) == 0.0
    assert pixels.copies(torch.ones(50, 64), 50) == 0.0
    assert pixels.copies(torch.zeros(0, 64), 0) == 0.0
