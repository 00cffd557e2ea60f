"""Which checkpoint is best, without labels: the one where the label-free score is highest.

How far the scores can be trusted is measured in docs/health.md: their rank correlation with k-NN over runs.
"""

from dataclasses import dataclass

from nexus.health.course import Course

SCORES = ("health/effective_rank", "health/rankme")
"""What chooses, the first that the log has: what agrees best with k-NN over runs (docs/log.md)."""


@dataclass(frozen=True)
class Choice:
    """A step, the score that chose it, and the score at the end."""

    step: int
    key: str
    value: float
    last: float


def best_step(course: Course, key: str | None = None) -> Choice | None:
    """The step with the highest score, the latest of equal ones; None where no score was logged twice.

    k-NN, where it was measured, beats all label-free ones.
    """
    wanted = (key,) if key else ("knn", *SCORES)
    for name in wanted:
        pairs = course.of(name)
        if len(pairs) > 1:
            step, value = max(pairs, key=lambda pair: (pair[1], pair[0]))
            return Choice(step, name, value, pairs[-1][1])
    return None
