"""Logistic regression against scikit-learn: the same coefficients, intercepts and predictions."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from nexus.errors import DataError
from nexus.evals import logistic
from nexus.evals.logistic import LogisticProblem


def blobs(count=120, dim=8, classes=4, seed=0):
    """Overlapping classes, dimensions of very different spread, far from the origin."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    centres = torch.randn(classes, dim, generator=torch.Generator().manual_seed(9))
    x = centres[labels] + 2 * torch.randn(count, dim, generator=generator)
    return (x * torch.logspace(0, -1.5, dim) + 3).double(), labels


def oracle(x, labels, c):
    return LogisticRegression(C=c, solver="newton-cholesky", tol=1e-10).fit(x.numpy(), labels.numpy())


@pytest.mark.parametrize("c", [1e-6, 1e-2, 1.0, 100.0])
def test_coefficients_equal_scikit_learn(c):
    x, labels = blobs()
    ours, theirs = LogisticProblem(x, labels, 4).solve(c, tolerance=1e-7), oracle(x, labels, c)
    np.testing.assert_allclose(ours.weight, theirs.coef_, rtol=2e-4, atol=2e-5 * abs(theirs.coef_).max())
    middle = (part - part.mean() for part in (ours.bias.numpy(), theirs.intercept_))
    np.testing.assert_allclose(*middle, rtol=2e-4, atol=1e-6)
    other, _ = blobs(50, seed=1)
    np.testing.assert_allclose(ours(other).softmax(1), theirs.predict_proba(other.numpy()), atol=1e-4)


def test_two_classes_are_the_binary_problem_of_the_libraries():
    x, labels = blobs(classes=2)
    ours, theirs = LogisticProblem(x, labels, 2).solve(0.5, tolerance=1e-7), oracle(x, labels, 0.5)
    np.testing.assert_allclose(ours.weight[1] - ours.weight[0], theirs.coef_[0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(ours.bias[1] - ours.bias[0], theirs.intercept_[0], rtol=1e-4)


def test_fewer_images_than_dimensions():
    x, labels = blobs(count=20, dim=50)
    ours, theirs = LogisticProblem(x, labels, 4).solve(1.0, tolerance=1e-7), oracle(x, labels, 1.0)
    np.testing.assert_allclose(ours.weight, theirs.coef_, rtol=1e-3, atol=1e-5)


def test_a_start_changes_the_way_but_not_the_answer():
    x, labels = blobs()
    problem = LogisticProblem(x, labels, 4)
    near = problem.solve(0.5)
    cold, warm = (problem.solve(1.0, start, tolerance=1e-7) for start in (None, near))
    torch.testing.assert_close(cold.weight, warm.weight, rtol=1e-4, atol=1e-5)
    quick, slow = problem.solve(1.0, problem.solve(1.0)), problem.solve(1.0)
    assert quick.evaluations < slow.evaluations / 3
    assert cold.converged


def test_chunks_change_nothing(monkeypatch):
    x, labels = blobs()
    whole = LogisticProblem(x, labels, 4).solve(1.0)
    monkeypatch.setattr(logistic, "ROWS", 4 * 7)
    torch.testing.assert_close(LogisticProblem(x, labels, 4).solve(1.0).weight, whole.weight)


def test_classes_without_an_image_are_never_said():
    x, labels = blobs(classes=3)
    gaps = torch.tensor([1, 4, 5])[labels]
    sparse, dense = LogisticProblem(x, gaps, 7).solve(1.0), LogisticProblem(x, labels, 3).solve(1.0)
    assert sparse(x).isfinite().any(0).tolist() == [False, True, False, False, True, True, False]
    torch.testing.assert_close(sparse(x)[:, [1, 4, 5]], dense(x))
    again = LogisticProblem(x, gaps, 7).solve(1.0, sparse)
    torch.testing.assert_close(again.weight, sparse.weight, rtol=1e-3, atol=1e-5)


def test_too_few_passes_are_admitted():
    x, labels = blobs()
    assert not LogisticProblem(x, labels, 4).solve(1e4, max_evaluations=3).converged


def test_one_class_is_a_data_error():
    with pytest.raises(DataError, match="two classes"):
        LogisticProblem(torch.randn(5, 3), torch.zeros(5, dtype=torch.long), 4)
