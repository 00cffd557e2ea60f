"""The diagnostics at their known ends and against loops."""

import math

import pytest
import torch

from nexus.losses import entropy, kl, prototype_usage
from tests.losses.oracles import cross_entropy, random_probs


def test_entropy_of_one_hot_and_uniform_rows() -> None:
    assert entropy(torch.eye(4)).item() == 0.0
    assert entropy(torch.full((3, 8), 1 / 8)).item() == pytest.approx(math.log(8))
    assert entropy(torch.cat([torch.eye(8), torch.full((8, 8), 1 / 8)])).item() == pytest.approx(
        math.log(8) / 2
    )
    assert entropy(torch.zeros(0, 8)).item() == 0.0


def test_kl_equals_the_loops() -> None:
    probs, logits = random_probs(5, 6), torch.randn(5, 6)
    rows = zip(logits.tolist(), probs.tolist(), strict=True)
    expected = sum(cross_entropy(s, t, 0.1) + sum(p * math.log(p) for p in t) for s, t in rows)
    assert kl(probs, logits).item() == pytest.approx(expected / 5, rel=1e-4)
    assert kl(probs, probs.log(), 1.0).item() == pytest.approx(0.0, abs=1e-5)
    assert kl(probs[:0], logits[:0]).item() == 0.0


def test_prototype_usage() -> None:
    assert prototype_usage(torch.eye(4)).item() == 1.0
    assert prototype_usage(torch.eye(4)[[1, 1, 2]]).item() == 0.5
    assert prototype_usage(torch.zeros(0, 4)).item() == 0.0
