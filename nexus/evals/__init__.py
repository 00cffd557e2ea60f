"""What frozen features are worth.

::

    task        the contract: Task, TaskResult
    context     what every task is given: EvalContext
    registry    the tasks by name, and their settings
    evaluation  nexus.evaluate: tasks on a backbone, and on raw pixels
    compare     the same of several models, and which differences are real (comparison)
    results     from what a task found to eval.json and the table
"""

from nexus.evals.compare import compare
from nexus.evals.context import EvalContext
from nexus.evals.evaluation import evaluate
from nexus.evals.knn import KNNConfig, evaluate_knn
from nexus.evals.linear import LinearConfig, evaluate_linear
from nexus.evals.registry import TASKS
from nexus.evals.splits import labelled_splits, split_labelled
from nexus.evals.task import EvalPicture, Task, TaskResult

__all__ = [
    "TASKS",
    "EvalContext",
    "EvalPicture",
    "KNNConfig",
    "LinearConfig",
    "Task",
    "TaskResult",
    "compare",
    "evaluate",
    "evaluate_knn",
    "evaluate_linear",
    "labelled_splits",
    "split_labelled",
]
