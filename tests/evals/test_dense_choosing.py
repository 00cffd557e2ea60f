"""The choice of a learning rate: what it trains on, what it judges by, and which one it takes."""

import math

import pytest
from torch import nn

from nexus.evals.dense.choosing import train_with_best_rate
from nexus.evals.dense.head_config import HeadConfig


def chosen(worth_of_rate, rates, seeds=(3,)):
    """The rate that is taken and the calls that led to it, with heads that know their rate."""
    calls = []

    def fit(rows, seeds, rates):
        calls.append(("fit", list(rows), list(seeds)))
        heads = [nn.Identity() for _ in rates]
        for head, rate in zip(heads, rates, strict=True):
            head.rate = rate
        return heads

    def worth(heads, rows):
        calls.append(("worth", list(rows)))
        return [worth_of_rate[head.rate] for head in heads]

    heads, details = train_with_best_rate(HeadConfig(learning_rates=rates), seeds, "linear", 10, fit, worth)
    assert {head.rate for head in heads} == {details["learning_rate"]}
    assert len(heads) == len(seeds)
    return details, calls


@pytest.mark.parametrize(
    ("worth", "best"),
    [
        ({0.1: 0.3, 1.0: 0.2}, 0.1),
        ({0.1: -3.0, 1.0: -2.0}, 1.0),
        ({0.1: -3.0, 1.0: math.nan}, 0.1),
        ({0.1: math.nan, 1.0: -math.inf}, 1.0),
        ({0.1: 0.5, 1.0: 0.5}, 1.0),
    ],
)
def test_the_best_rate_is_taken(worth, best):
    details, _ = chosen(worth, (0.1, 1.0))
    assert details["learning_rate"] == best
    assert set(details["held_out"]) == {"0.1", "1.0"}


def test_no_image_chooses_and_teaches_and_the_last_training_has_all():
    _, (first, judged, *last) = chosen({0.1: 1.0, 1.0: 0.0}, (0.1, 1.0), seeds=(3, 4))
    assert sorted(first[1] + judged[1]) == list(range(10))
    assert len(judged[1]) == 2
    assert first[2] == [3, 3]
    assert last == [("fit", list(range(10)), [3]), ("fit", list(range(10)), [4])]


def test_one_rate_is_taken_as_it_is():
    details, calls = chosen({}, (0.5, 0.5))
    assert details == {"learning_rate": 0.5}
    assert calls == [("fit", list(range(10)), [3])]
