"""AP, recall and precision by hand, against scikit-learn, and against the expectation of random orders."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from nexus.errors import ConfigError
from nexus.evals.retrieval import GroupTruth, ListTruth, answer, rank
from nexus.evals.retrieval.whitening import learn_whitening

NONE = np.empty(0, dtype=np.int64)


def test_by_hand():
    """Sorted: wrong, RIGHT, wrong, RIGHT, and one that is ignored between the first two."""
    ranking = rank(np.array([0.1, 0.9, 0.5, 0.3, 0.8]), np.array([2, 0]), np.array([4]))
    assert ranking.places.tolist() == [2, 4]
    assert ranking.gallery == 4
    assert ranking.average_precision() == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert ranking.average_precision(trapezoids=True) == pytest.approx(
        ((0 + 1 / 2) / 2 + (1 / 3 + 2 / 4) / 2) / 2
    )
    assert [ranking.found(k) for k in (1, 2, 4)] == [False, True, True]
    assert [ranking.precision(k) for k in (1, 2, 3, 10)] == pytest.approx([0, 1 / 2, 1 / 3, 2 / 4])


def test_perfect_is_one_both_ways():
    ranking = rank(np.array([0.9, 0.8, 0.1]), np.array([0, 1]), NONE)
    assert ranking.average_precision() == ranking.average_precision(trapezoids=True) == 1


def test_equals_scikit_learn():
    rng = np.random.default_rng(0)
    for count in (2, 7, 60):
        similarity = rng.permutation(count).astype(np.float32)
        truth = np.zeros(count, bool)
        truth[rng.choice(count, max(1, count // 4), replace=False)] = True
        ours = rank(similarity, np.flatnonzero(truth), NONE).average_precision()
        assert ours == pytest.approx(average_precision_score(truth, similarity))


def test_a_model_that_says_the_same_of_everything_gets_the_worst_place():
    assert rank(np.zeros(10), np.array([0, 1]), NONE).places.tolist() == [9, 10]
    assert rank(np.full(4, np.nan), np.array([0]), NONE).places.tolist() == [4]
    mixed = np.array([np.nan, 0.5, -0.5])
    assert rank(mixed, np.array([0]), NONE).places.tolist() == [3]


def test_ignored_right_images_do_not_count():
    ranking = rank(np.array([0.9, 0.8]), np.array([0]), np.array([0]))
    assert len(ranking.places) == 0
    assert math.isnan(ranking.average_precision())
    assert not ranking.found(5)


@pytest.mark.parametrize("trapezoids", [False, True])
def test_expectation_is_the_mean_over_all_orders(trapezoids):
    """Every way to place 2 right ones among 5."""
    values = [
        rank(-np.arange(5.0), np.array([a, b]), NONE).average_precision(trapezoids)
        for a in range(5)
        for b in range(a + 1, 5)
    ]
    ranking = rank(np.arange(5.0), np.array([0, 1]), NONE)
    assert ranking.expected(trapezoids) == pytest.approx(np.mean(values))


def test_search_leaves_the_query_out_and_blocks_change_nothing(monkeypatch):
    features = torch.randn(23, 5, generator=torch.Generator().manual_seed(0))
    groups = np.arange(23) % 6 - 1
    asks = np.flatnonzero(groups >= 0)
    truths = {"a": GroupTruth(groups[asks], groups, own=asks)}
    answers = answer(features[asks], features, truths, shown=4)
    assert all(row not in near for row, near in zip(asks, answers.nearest, strict=True))
    unit = torch.nn.functional.normalize(features, dim=1)
    table = (unit[asks] @ unit.T).numpy()
    for query, row in enumerate(asks):
        others = np.delete(np.arange(23), row)
        expected = average_precision_score(groups[others] == groups[row], table[query, others])
        assert answers.rankings["a"][query].average_precision() == pytest.approx(expected)
        assert answers.nearest[query].tolist() == others[table[query, others].argsort()[::-1]][:4].tolist()
    monkeypatch.setattr("nexus.evals.retrieval.scoring.BLOCK_NUMBERS", 60)
    again = answer(features[asks], features, truths, shown=4)
    assert (again.nearest == answers.nearest).all()


def test_a_gallery_smaller_than_the_picture():
    truth = ListTruth((np.array([1]),), (np.array([0]),))
    answers = answer(torch.eye(2)[:1], torch.eye(2), {"a": truth}, shown=6)
    assert answers.nearest.tolist() == [[1, -1]]


def test_whitened_training_rows_vary_equally():
    mix = torch.randn(6, 6, generator=torch.Generator().manual_seed(1))
    rows = torch.randn(400, 6, generator=torch.Generator().manual_seed(2)) @ mix
    white = learn_whitening(rows, 4)(rows)
    torch.testing.assert_close(torch.cov(white.T, correction=0), torch.eye(4), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(white.mean(0), torch.zeros(4), atol=1e-5, rtol=0)
    with pytest.raises(ConfigError, match="at most 3"):
        learn_whitening(torch.cat([rows[:, :3], torch.zeros(400, 3)], dim=1)[:4], 4)
