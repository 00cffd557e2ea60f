"""Logistic regression as an evaluation: scikit-learn walks the same path, chooses and predicts the same."""

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from nexus.errors import DataError
from nexus.evals import evaluate
from nexus.evals.logreg import OFFICIAL_C, LogRegConfig, choose_penalty, logreg_result
from nexus.evals.splits import stratified
from tests.evals.stubs import TinyBackbone
from tests.evals.test_knn import noisy

CPU = torch.device("cpu")
SHORT = LogRegConfig(c=(1e-4, 1e-2, 1.0))
FEW = LogRegConfig(c=OFFICIAL_C[4::8], tolerance=1e-7)


def test_the_official_path():
    assert len(OFFICIAL_C) == 45
    np.testing.assert_allclose(OFFICIAL_C, np.logspace(-6, 5, 45), rtol=1e-5)


def test_path_choice_and_predictions_equal_scikit_learn():
    train, test = noisy(120, noise=2.0, dim=8, classes=4), noisy(200, noise=2.0, dim=8, classes=4, seed=1)
    fit, held = stratified(train.labels, 0.1, 0)
    accuracy = {}
    for c in FEW.c:
        oracle = LogisticRegression(C=c, solver="newton-cholesky", tol=1e-10)
        oracle.fit(train.cls[fit].double().numpy(), train.labels[fit].numpy())
        accuracy[c] = oracle.score(train.cls[held].double().numpy(), train.labels[held].numpy())
    result = logreg_result(train, test, FEW)
    assert {p["c"]: pytest.approx(p["held_out_top1"]) for p in result.details["path"]} == accuracy
    assert result.details["held_out_top1"] == max(accuracy.values())
    oracle = LogisticRegression(C=result.details["c"], solver="newton-cholesky", tol=1e-10)
    oracle.fit(train.cls.double().numpy(), train.labels.numpy())
    hits = oracle.predict(test.cls.double().numpy()) == test.labels.numpy()
    assert result.value == pytest.approx(hits.mean())
    assert [result.score(torch.tensor([i])) for i in range(200)] == hits.tolist()


def test_the_whole_path_is_affordable_and_warm_starts_help():
    """A full path of 45 penalties, and what it would cost if each fit began at zero."""
    train = noisy(150, noise=2.0, dim=8, classes=4)
    warm = choose_penalty(train, LogRegConfig(), 4, CPU)
    passes = sum(point.passes for point in warm.path)
    assert all(point.converged for point in warm.path)
    assert passes < 45 * 40


def test_selection_never_sees_the_test_images():
    train, test = noisy(80, noise=3.0), noisy(60, noise=3.0, seed=1)
    spoilt = dataclasses.replace(test, labels=test.labels.roll(1), cls=test.cls + 3)
    first, second = (logreg_result(train, part, SHORT).details for part in (test, spoilt))
    assert (first["c"], first["path"]) == (second["c"], second["path"])


def test_labels_that_mean_nothing_stay_at_chance():
    train, test = noisy(140), noisy(700, seed=1)
    train = dataclasses.replace(train, labels=train.labels[torch.randperm(140)])
    assert logreg_result(train, test, SHORT).value < 0.3


def test_too_few_labels_is_a_data_error():
    with pytest.raises(DataError, match="held out"):
        logreg_result(noisy(4), noisy(8), FEW)


def test_it_is_a_task():
    result = evaluate(
        "synthetic:n=60,size=32,classes=3", TinyBackbone(), "logreg", size=32, overrides=["logreg.c=[0.1,1]"]
    )
    assert result["logreg"]["c"] in (0.1, 1)
    assert [row["features"] for row in result["table"]] == ["model", "raw pixels"]
