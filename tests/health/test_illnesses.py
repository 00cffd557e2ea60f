"""Known failures reproduced: a short run with the fault is named while it trains, a healthy one is not.

The smallest runs that still fall ill; the whole matrix, with runs of other sizes, is `benchmarks/doctor.py`.
"""

from pathlib import Path
from typing import Any

import pytest

from benchmarks.doctor_faults import BASE, DATA, FAULTS, Case, copies_of, planted
from nexus.errors import RunError
from nexus.health.diagnosis import diagnose
from nexus.health.logs import read_log
from nexus.training import train

SMALL: dict[str, Any] = {
    "schedule.steps": 110,
    "schedule.batch_size": 8,
    "model.embed_dim": 32,
    "model.num_heads": 1,
    "model.depth": 1,
    "objective.out_dim": 128,
    "objective.hidden_dim": 64,
    "crops.local_number": 1,
    "health.images": 64,
    "health.every": 20,
}
QUICK = {
    "last layer frozen": 30,
    "learning rate 0": 30,
    "iBOT only": 10,
    "teacher drops paths": 10,
    "momentum 0": 10,
    "momentum 0.9999": 100,
    "blur": 10,
    "colour": 10,
    "copies": 40,
    "fp16 overflow": 20,
}
"""Steps after which the sign must be there, where fewer than all are enough."""


def trained(case: Case, out: Path, sizes: dict[str, Any] = SMALL, **settings: Any) -> str:
    """Train, and what was said meanwhile."""
    data = copies_of(DATA, out.with_name("copies")) if case.copied else case.data
    overrides = {**BASE, **sizes, **case.settings, **settings}
    with planted(case.plant):
        try:
            train(str(data), out, overrides=overrides)
        except RunError:
            assert case.expected == "not-finite"  # our trainer gives up by itself
    return (out / "log.txt").read_text(encoding="utf-8")


LARGE = (
    "no KoLeo, batch 16",
    "no KoLeo, batch 2",
    "prototypes dead",
    "teacher temperature as the student's",
)
"""Not to be seen in so small a run; `benchmarks/doctor.py` has them all at larger sizes."""


@pytest.mark.parametrize(
    "case", [case for case in FAULTS if case.name not in LARGE], ids=lambda case: case.name
)
def test_the_fault_is_named_while_training(case: Case, tmp_path: Path) -> None:
    settings: dict[str, Any] = {}
    if case.name in QUICK:
        settings = {"schedule.steps": QUICK[case.name], "log.every": 5}
    said = trained(case, tmp_path / "a", **settings)
    assert names(said)[:1] == [case.expected]
    assert diagnose(read_log(tmp_path / "a").course).name == case.expected


@pytest.mark.slow
def test_few_directions_are_named_in_a_run_of_some_size(tmp_path: Path) -> None:
    case = next(case for case in FAULTS if case.name == LARGE[0])
    assert names(trained(case, tmp_path / "a", sizes={})) == ["dimensional-collapse"]


def names(said: str) -> list[str]:
    """The illnesses that were warned of, in order."""
    warned = [
        line.partition("health: ")[2] for line in said.splitlines() if "WARNING" in line and "health:" in line
    ]
    return [line.partition(":")[0] for line in warned]


@pytest.mark.parametrize(("seed", "optimizer"), [(1, "adamw"), (2, "adamw"), (1, "muon")])
def test_a_healthy_run_is_not_warned_of(seed: int, optimizer: str, tmp_path: Path) -> None:
    said = trained(Case("well", None, {"seed": seed, "optim.optimizer": optimizer}), tmp_path / "a")
    assert "WARNING" not in said
    assert said.count("health: no illness") == 7
