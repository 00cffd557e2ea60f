"""The table of vital signs: each with its newest value, where it began, what is normal, and whether it is."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from nexus.health import symptoms
from nexus.health.course import Course


@dataclass(frozen=True)
class Sign:
    """One row: its key, its name for people, the limits of the book, and what they mean."""

    key: str
    title: str
    normal: str
    low: float | None = None
    """Below it is ill."""
    high: float | None = None
    """Above it is ill."""
    percent: bool = False


@dataclass(frozen=True)
class Vital:
    """A sign as this run has it."""

    sign: Sign
    first: float
    last: float
    ill: bool
    """Whether it is what shows an illness that was found."""

    def facts(self) -> dict[str, Any]:
        """For doctor.json."""
        return {
            "key": self.sign.key,
            "title": self.sign.title,
            "first": self.first,
            "last": self.last,
            "low": self.sign.low,
            "high": self.sign.high,
            "ill": self.ill,
        }


SIGNS = (
    Sign("dino", "DINO loss / ln K", "falls below 1; near 0 is one answer for all"),
    Sign("ibot", "iBOT loss / ln K", "falls below 1"),
    Sign("gap", "ln K - teacher entropy", "0 is uniform", low=symptoms.UNIFORM_GAP),
    Sign("teacher/entropy", "teacher entropy, nats", "between 0 and ln K"),
    Sign("teacher/kl", "KL(teacher || student), nats", "small but not 0"),
    Sign("health/prototypes", "prototypes in use", "many more than one"),
    Sign("health/rankme", "RankMe", "rises"),
    Sign("health/effective_rank", "effective rank", "rises or stays", low=symptoms.ONE_DIRECTION),
    Sign("health/std", "std of a dimension", "well above 0"),
    Sign("health/cosine", "cosine of two images", "well below 1"),
    Sign("health/nearest", "nearest neighbour", "rises"),
    Sign("health/retrieval", "two crops meet", "rises", percent=True),
    Sign("health/outliers", "patch outliers", "few", percent=True),
    Sign("health/teacher_noise", "noise of the teacher", "0", high=symptoms.NOISE, percent=True),
    Sign("health/teacher_lag", "teacher behind student", "some", percent=True),
    Sign("health/detail", "detail left by blur", "most", low=symptoms.DETAIL, percent=True),
    Sign("health/colour", "likeness after colours", "most", low=symptoms.COLOUR),
    Sign("health/copies", "near-copies an image", "none", high=symptoms.COPIES),
    Sign("student/cosine", "cosine in a batch", "well below 1"),
    Sign("finite", "steps that count", "all", low=0.5, percent=True),
    Sign("lr", "learning rate", "above 0"),
    Sign("momentum", "teacher momentum", "fits the length", low=symptoms.LOW_MOMENTUM),
    Sign("knn", "k-NN", "rises", percent=True),
)


def vitals(course: Course, shown_by: Collection[str] = ()) -> Iterator[Vital]:
    """Every sign that the course has a value of; those in `shown_by` are marked ill."""
    for sign in SIGNS:
        first, last = course.first(sign.key), course.last(sign.key)
        if first is not None and last is not None:
            yield Vital(sign, first, last, sign.key in shown_by)
