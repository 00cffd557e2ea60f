"""k-NN against scikit-learn, hand-made cases, chunking, ties, few-shot."""

import math

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from nexus.evals import evaluate
from nexus.evals.knn import KNNConfig, _draws, evaluate_knn, knn_scores, nearest
from nexus.evals.metrics import bootstrap_interval, rank_of_truth
from nexus.features import Features
from tests.evals.stubs import TinyBackbone


def features(cls, labels):
    names = tuple(str(i) for i in range(len(cls)))
    labels = None if labels is None else torch.as_tensor(labels)
    return Features(cls, cls, cls.unsqueeze(1), labels, names)


def noisy(count, classes=7, dim=12, noise=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, dim, generator=torch.Generator().manual_seed(99))
    labels = torch.arange(count) % classes
    return features(centres[labels] + noise * torch.randn(count, dim, generator=generator), labels)


@pytest.mark.parametrize("k", [1, 5, 20])
@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_predictions_equal_scikit_learn(k, temperature):
    train, test = noisy(150, noise=2.0), noisy(80, noise=2.0, seed=1)
    oracle = KNeighborsClassifier(
        k,
        metric="cosine",
        algorithm="brute",
        weights=lambda distance: np.exp((1 - distance) / temperature),
    )
    oracle.fit(train.cls.double().numpy(), train.labels.numpy())
    expected = oracle.predict(test.cls.double().numpy())
    votes = knn_scores(train.cls, train.labels, test.cls, classes=7, k=(k, 2 * k), temperature=temperature)
    assert votes[k].argmax(1).tolist() == expected.tolist()
    result = evaluate_knn(train, test, KNNConfig(k=(k,), temperature=temperature))
    assert result["top1"] == pytest.approx((expected == test.labels.numpy()).mean())


def test_scores_by_hand():
    """Cosines 1, 0.8, 0; the softmax runs over all three even where only two vote."""
    bank = torch.tensor([[2.0, 0.0], [0.8, 0.6], [0.0, 5.0]])
    votes = knn_scores(bank, torch.tensor([1, 0, 1]), torch.tensor([[3.0, 0.0]]), 3, (1, 2, 9), 0.5)
    weights = np.exp(np.array([1.0, 0.8, 0.0]) / 0.5)
    a, b, c = weights / weights.sum()
    assert list(votes) == [1, 2, 3]
    np.testing.assert_allclose(votes[1][0], [0, a, 0], rtol=1e-5)
    np.testing.assert_allclose(votes[2][0], [b, a, 0], rtol=1e-5)
    np.testing.assert_allclose(votes[3][0], [b, a + c, 0], rtol=1e-5)


@pytest.mark.parametrize("chunk", [1, 3, 64])
def test_chunks_change_nothing(chunk, monkeypatch):
    train, test = noisy(60), noisy(31, seed=1)
    whole, parts = nearest(train.cls, test.cls, 9), nearest(train.cls, test.cls, 9, chunk)
    torch.testing.assert_close(whole[0], parts[0])
    assert torch.equal(whole[1], parts[1])
    before = evaluate_knn(train, test)
    monkeypatch.setattr("nexus.evals.knn.CHUNK_NUMBERS", 60 * chunk)
    assert evaluate_knn(train, test) == before


def test_equal_scores_go_to_the_lower_class():
    bank = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    votes = knn_scores(bank, torch.tensor([2, 1]), torch.tensor([[1.0, 0.0]]), 3, (2,))[2]
    assert rank_of_truth(votes.repeat(3, 1), torch.tensor([0, 1, 2])).tolist() == [2, 0, 1]
    wild = torch.tensor([[torch.nan, 1.0], [1.0, torch.inf]])
    assert rank_of_truth(wild, torch.tensor([0, 1])).tolist() == [2, 2]


def test_k_is_clipped_and_said(caplog):
    with caplog.at_level("INFO", logger="nexus.evals.knn"):
        result = evaluate_knn(noisy(50), noisy(20, seed=1))
    assert list(result["k"]) == ["10", "20", "50"]
    assert result["headline_k"] == 20
    assert result["top1"] == result["k"]["20"]["top1"]
    assert "clipped to the 50" in caplog.text


def test_a_class_without_votes_is_no_top5_guess():
    """Three neighbours of classes 1-3: the truth, class 0, has no vote and must not be counted."""
    bank = features(torch.eye(8)[[1, 2, 3, 4, 5, 6, 7]] + torch.eye(8)[0] * 5, torch.arange(1, 8))
    query = features(torch.eye(8)[[0, 0]] + 0.1 * torch.eye(8)[[1, 1]], torch.tensor([0, 1]))
    result = evaluate_knn(bank, query, KNNConfig(k=(3,)))
    assert result["k"]["3"] == {"top1": 0.5, "top5": 0.5}


def test_few_shot_takes_n_of_each_class_and_averages():
    train, test = noisy(140, noise=1.5), noisy(70, noise=1.5, seed=1)
    config = KNNConfig(n_per_class=2, tries=4)
    few, full = evaluate_knn(train, test, config), evaluate_knn(train, test)
    assert few["train_samples"] == 14
    assert few["std"] > 0
    assert few["top1"] < full["top1"]
    assert few == evaluate_knn(train, test, config)
    everything = evaluate_knn(train, test, KNNConfig(n_per_class=1000, tries=1))
    assert everything["top1"] == full["top1"]


def test_few_shot_equals_scikit_learn_draw_by_draw():
    train, test = noisy(140, noise=1.5), noisy(70, noise=1.5, seed=1)
    few = evaluate_knn(train, test, KNNConfig(n_per_class=3, tries=3, k=(5,), temperature=0.5))
    expected = []
    for rows in _draws(train.labels, KNNConfig(n_per_class=3, tries=3)):
        assert train.labels[rows].bincount().tolist() == [3] * 7
        oracle = KNeighborsClassifier(
            5, metric="cosine", algorithm="brute", weights=lambda d: np.exp(-d / 0.5)
        )
        oracle.fit(train.cls[rows].double().numpy(), train.labels[rows].numpy())
        expected.append(oracle.score(test.cls.double().numpy(), test.labels.numpy()))
    assert few["seeds"] == pytest.approx(expected)
    assert few["top1"] == pytest.approx(np.mean(expected))
    low, high = few["interval_with_draws"]
    assert low < few["interval"][0] + 0.02
    assert high - low > few["interval"][1] - few["interval"][0] - 0.01


def test_a_row_for_each_number_of_shots():
    settings = {"few_shot": [1, 3], "tries": 2}
    spec = "synthetic:n=60,size=32,classes=3"
    found = evaluate(spec, TinyBackbone(), "knn", size=32, knn=settings, device="cpu", baseline=False)
    assert [row["task"] for row in found["table"]] == ["knn", "knn/1-shot", "knn/3-shot"]
    assert [found["knn"]["parts"][name]["train_samples"] for name in ("1-shot", "3-shot")] == [3, 9]
    assert found["knn"]["train_samples"] == 48


def test_numbers_beside_the_headline():
    train, test = noisy(60, classes=3), noisy(30, classes=3, seed=1)
    train.labels[:45] = 1
    result = evaluate_knn(train, test)
    assert result["chance"] == pytest.approx(1 / 3)
    assert result["majority"] == pytest.approx(1 / 3)
    assert result["samples"] == 30
    assert result["k"]["20"]["top5"] is None
    low, high = result["interval"]
    assert low <= result["top1"] <= high


def test_unlabelled_rows_are_left_out():
    train, test = noisy(60), noisy(30, seed=1)
    expected = evaluate_knn(train, test.rows(torch.arange(10, 30)))
    test.labels[:10] = -1
    assert evaluate_knn(train, test) == expected


def test_bootstrap_is_near_the_binomial():
    correct = (torch.arange(400) % 4 == 0).float()
    low, high = bootstrap_interval(correct)
    half = 1.96 * math.sqrt(0.25 * 0.75 / 400)
    assert low == pytest.approx(0.25 - half, abs=0.01)
    assert high == pytest.approx(0.25 + half, abs=0.01)
    assert bootstrap_interval(correct) == [low, high]
