"""From the course of a run to a verdict: which illnesses of the book it has, and a sentence to say so."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nexus.health.book import BOOK, Illness
from nexus.health.course import Course


@dataclass(frozen=True)
class Finding:
    """An illness, and the numbers that show it."""

    illness: Illness
    evidence: str

    @property
    def sentence(self) -> str:
        """Name, evidence, likely cause and cure in one line."""
        illness = self.illness
        return f"{illness.name}: {self.evidence}. Likely {illness.cause}. {illness.cure}."

    def facts(self) -> dict[str, Any]:
        """For doctor.json."""
        illness = self.illness
        words = {"what": illness.what, "cause": illness.cause, "cure": illness.cure}
        return {"name": illness.name, "fatal": illness.fatal, "evidence": self.evidence, **words}


@dataclass(frozen=True)
class Diagnosis:
    """Everything that was found, the first of it the most basic: what follows it may follow from it."""

    step: int
    findings: tuple[Finding, ...]
    vital: str

    @property
    def ill(self) -> bool:
        """Whether anything was found."""
        return bool(self.findings)

    @property
    def name(self) -> str | None:
        """The first illness."""
        return self.findings[0].illness.name if self.findings else None

    @property
    def fatal(self) -> Finding | None:
        """The first illness that training on will not heal."""
        return next((finding for finding in self.findings if finding.illness.fatal), None)

    @property
    def sentence(self) -> str:
        """The verdict in one line."""
        if not self.findings:
            return f"no illness found at step {self.step:,}: {self.vital}"
        also = ", ".join(finding.illness.name for finding in self.findings[1:])
        return self.findings[0].sentence + (f" Also: {also}." if also else "")


def diagnose(course: Course, book: Sequence[Illness] = BOOK) -> Diagnosis:
    """Look every illness up in the course, in the order of the book.

    One that another, found before it, explains is not named.
    """
    found: list[Finding] = []
    for illness in book:
        if any(illness.name in other.illness.explains for other in found):
            continue
        evidence = illness.sign(course)
        if evidence:
            found.append(Finding(illness, evidence))
    return Diagnosis(course.step, tuple(found), vital_line(course))


_VITAL = (
    ("dino", "DINO at {:.2f} of ln K"),
    ("ibot", "iBOT at {:.2f}"),
    ("teacher/entropy", "teacher entropy {:.2f}"),
    ("health/prototypes", "{:.0f} prototypes in use"),
    ("health/effective_rank", "effective rank {:.1f}"),
    ("health/retrieval", "two crops meet in {:.0%}"),
    ("knn", "k-NN {:.1%}"),
)


def vital_line(course: Course) -> str:
    """The newest values of the most telling signs, in one line."""
    parts = [text.format(value) for key, text in _VITAL if (value := course.last(key)) is not None]
    return ", ".join(parts) or "no vital sign is logged yet"
