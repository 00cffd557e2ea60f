"""What frozen features are worth on labelled images."""

from nexus.evals.evaluation import EVALS, evaluate
from nexus.evals.knn import KNNConfig, evaluate_knn
from nexus.evals.linear import LinearConfig, evaluate_linear
from nexus.evals.splits import labelled_splits, split_labelled

__all__ = [
    "EVALS",
    "KNNConfig",
    "LinearConfig",
    "evaluate",
    "evaluate_knn",
    "evaluate_linear",
    "labelled_splits",
    "split_labelled",
]
