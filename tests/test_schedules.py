"""Schedules against the official arrays (reference §2.8)."""

import numpy as np
import pytest

from nexus.schedules import Schedule, cosine, linear_then_constant


def official_array(base: float, final: float, total: int, warmup: int, start: float) -> np.ndarray:
    """The array that the official code indexes by step, written from its description."""
    rise = np.linspace(start, base, warmup)
    steps = np.arange(total - warmup)
    fall = final + 0.5 * (base - final) * (1 + np.cos(np.pi * steps / len(steps)))
    return np.concatenate([rise, fall])


@pytest.mark.parametrize("warmup", [0, 1, 2, 10, 100])
def test_equals_the_official_array(warmup: int) -> None:
    schedule = Schedule(base=3e-3, final=1e-6, total=100, warmup=warmup)
    expected = official_array(3e-3, 1e-6, 100, warmup, 0.0)
    assert np.allclose([schedule.at(step) for step in range(100)], expected, rtol=1e-12, atol=0)


def test_learning_rate_of_the_short_recipe() -> None:
    base = 4e-3 * np.sqrt(2)
    lr = Schedule(base=base, final=1e-6, total=125_000, warmup=12_500)
    assert lr.at(0) == 0
    assert lr.at(1) == pytest.approx(base / 12_499)
    assert lr.at(12_499) == lr.at(12_500) == pytest.approx(base)
    assert lr.at(124_999) == pytest.approx(1.0000008e-6, rel=1e-6)
    assert lr.at(125_000) == lr.at(10**9) == 1e-6


def test_momentum_and_temperature_of_the_short_recipe() -> None:
    momentum = cosine(0.992, 1.0, 125_000)
    assert momentum.at(0) == 0.992
    assert momentum.at(62_500) == pytest.approx(0.996)
    assert momentum.at(123_750) == pytest.approx(0.999998, abs=1e-6)
    temperature = linear_then_constant(0.04, 0.07, 37_500, 125_000)
    assert temperature.at(0) == 0.04
    assert temperature.at(18_750) == pytest.approx(0.0550, abs=1e-5)
    assert temperature.at(37_500) == temperature.at(124_999) == temperature.at(200_000) == 0.07
