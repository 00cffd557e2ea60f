"""Every illness from made-up numbers: named when it is there, and not when the numbers are healthy."""

import math
from typing import Any

import pytest

from nexus.health.book import BOOK
from nexus.health.course import Course
from nexus.health.diagnosis import diagnose
from nexus.health.vitals import SIGNS, vitals

K = 1024
LN_K = math.log(K)


def healthy(step: int, steps: int) -> dict[str, Any]:
    """A line of a run that learns."""
    done = step / steps
    return {
        "step": step,
        "loss": 9.0 - done,
        "loss/dino_global": LN_K * 0.2 * (0.98 - 0.4 * done),
        "loss/dino_local": LN_K * 0.8 * (0.98 - 0.4 * done),
        "uniform/dino_global": LN_K * 0.2,
        "uniform/dino_local": LN_K * 0.8,
        "loss/ibot": LN_K * 0.45,
        "uniform/ibot": LN_K * 0.5,
        "teacher/entropy": LN_K * (0.9 - 0.3 * done),
        "uniform/entropy": LN_K,
        "teacher_temp": 0.05,
        "lr": 1e-3 * min(1.0, 10 * (step - 1) / steps),
        "last_layer_lr": 1e-3 if step > steps // 100 else 0.0,
        "momentum": 0.992,
        "finite": 1.0,
        "health/images": 128.0,
        "health/prototypes": 90.0,
        "health/effective_rank": 5.0 + 10 * done,
        "health/retrieval": 0.1 + 0.5 * done,
        "health/nearest": 0.3 + 0.1 * done,
        "health/teacher_noise": 1e-7,
        "health/teacher_lag": 0.02,
        "health/detail": 0.96,
        "health/colour": 0.97,
        "health/copies": 0.02,
    }


def course(steps: int = 1000, until: float = 0.3, every: int = 10, **changes: Any) -> Course:
    """A run with some values replaced, in all lines or by a function of the share that is done."""
    result = Course(total=steps, settings={"objective.student_temp": 0.1, "compute.precision": "fp16"})
    for step in range(1, round(steps * until) + 1, every):
        line = healthy(step, steps)
        for key, value in changes.items():
            line[key.replace("__", "/")] = value(step / steps) if callable(value) else value
        result.add(line)
    return result


UNIFORM = {
    "loss__dino_global": LN_K * 0.2,
    "loss__dino_local": LN_K * 0.8,
    "teacher__entropy": LN_K - 0.01,
    "health__prototypes": 1000.0,
}
ONE_HOT = {
    "loss__dino_global": 0.001,
    "loss__dino_local": 0.004,
    "teacher__entropy": 0.01,
    "health__prototypes": 1.01,
}
ILL = {
    "not-finite": {"finite": 0.1},
    "no-learning-rate": {"lr": 0.0, "last_layer_lr": 0.0, **UNIFORM},
    "last-layer-frozen": {"last_layer_lr": 0.0, **UNIFORM},
    "ibot-only": {key: 0.0 for key in UNIFORM if key.startswith("loss")} | {"uniform__dino_global": 0.0},
    "teacher-not-in-eval": {"health__teacher_noise": 0.3},
    "momentum-too-low": {"momentum": 0.2},
    "momentum-too-high": {"momentum": 0.9999},
    "uniform-collapse": UNIFORM,
    "one-hot-collapse": ONE_HOT,
    "dying-prototypes": {"health__prototypes": 4.0, "health__effective_rank": 4.5},
    "dimensional-collapse": {
        "health__effective_rank": lambda done: 6.0 - 14 * done,
        "health__nearest": lambda done: 0.3 - 0.6 * done,
    },
    "blur-too-strong": {"health__detail": 0.2},
    "colour-too-strong": {"health__colour": 0.5},
    "duplicate-heavy-data": {"health__copies": 12.0},
}


def test_every_illness_of_the_book_is_tried_here() -> None:
    assert [illness.name for illness in BOOK] == list(ILL)


@pytest.mark.parametrize("name", ILL)
def test_it_is_named_and_named_first(name: str) -> None:
    found = diagnose(course(**ILL[name]))
    assert found.name == name
    assert found.findings[0].evidence in found.sentence
    assert found.ill


@pytest.mark.parametrize("steps", [150, 1000, 125_000])
@pytest.mark.parametrize("until", [0.01, 0.1, 1.0])
def test_a_healthy_run_is_not_ill(steps: int, until: float) -> None:
    found = diagnose(course(steps, until, every=max(1, steps // 200)))
    assert not found.ill
    assert found.sentence.startswith("no illness found")
    assert "DINO at" in found.sentence


def test_what_creeps_up_to_uniform_is_named_where_nothing_is_sharp() -> None:
    """A gap of 0.3 nats is healthy under a sharp teacher, and uniform on its way under one that is not."""
    creeping = UNIFORM | {"teacher__entropy": LN_K - 0.3, "loss__dino_local": LN_K * 0.77}
    assert diagnose(course(**creeping)).name is None
    assert diagnose(course(**creeping, teacher_temp=0.1)).name == "uniform-collapse"
    assert diagnose(course(teacher_temp=0.1)).name is None, "a setting alone is no illness"


@pytest.mark.parametrize("name", ["uniform-collapse", "one-hot-collapse", "dying-prototypes"])
def test_the_first_steps_are_given_patience(name: str) -> None:
    assert not diagnose(course(1000, 0.01, every=1, **ILL[name])).ill


def test_few_prototypes_are_no_illness_while_features_gain_directions() -> None:
    growing = ILL["dying-prototypes"] | {"health__effective_rank": lambda done: 3.0 + 12 * done}
    assert not diagnose(course(until=0.3, **growing)).ill


def test_a_slow_start_that_leaves_ln_k_is_no_collapse() -> None:
    rising = UNIFORM | {"teacher__entropy": lambda done: LN_K - 0.4 * done}
    assert not diagnose(course(until=0.3, **rising)).ill


def test_a_decay_to_zero_at_the_end_is_no_missing_rate() -> None:
    assert not diagnose(course(until=1.0, lr=lambda done: 1e-3 if done < 0.95 else 0.0)).ill


def test_what_follows_from_an_illness_is_not_named_beside_it() -> None:
    assert [f.illness.name for f in diagnose(course(**ILL["no-learning-rate"])).findings] == [
        "no-learning-rate"
    ]


def test_two_illnesses_are_both_named() -> None:
    both = ILL["one-hot-collapse"] | ILL["duplicate-heavy-data"]
    assert diagnose(course(**both)).sentence.endswith("Also: duplicate-heavy-data.")


def test_a_log_with_the_losses_alone_shows_a_collapse() -> None:
    for change, name in ((1.0, "uniform-collapse"), (0.001, "one-hot-collapse"), (0.7, None)):
        lines = [
            {"step": s, "loss/dino_global": change * 7, "uniform/dino_global": 7.0}
            for s in range(0, 3000, 10)
        ]
        assert diagnose(Course(lines)).name == name


def test_nan_in_somebody_elses_log() -> None:
    lines = [{"step": s, "loss": 3.0 if s < 50 else math.nan} for s in range(0, 100, 10)]
    found = diagnose(Course(lines))
    assert found.name == "not-finite"
    assert "5 lines" in found.sentence


def test_every_page_of_the_book_is_written() -> None:
    known = {sign.key for sign in SIGNS} | {"last_layer_lr", "loss/dino_global"}
    names = {illness.name for illness in BOOK}
    for illness in BOOK:
        assert illness.what.endswith(".")
        assert not illness.cause.endswith(".")
        assert set(illness.keys) <= known
        assert set(illness.explains) <= names


def test_the_table_marks_what_shows_the_illness() -> None:
    rows = list(vitals(course(**ILL["blur-too-strong"]), shown_by=("health/detail",)))
    assert [row.sign.key for row in rows if row.ill] == ["health/detail"]
    assert len(rows) > 10
