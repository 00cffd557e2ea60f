"""`nexus plan`: what a run will be, and what a step of it takes on this machine, before anything is run.

The settings are those of `nexus train` with the same words. A few steps are made with them on the data
(`nexus.training.rehearsal`); what budgets of time give, and what a change would bring, follows from these.
"""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nexus.data.datasets import scan
from nexus.errors import ConfigError
from nexus.training.advice import Change, advice, changes, fitting_recipe
from nexus.training.asked import Asked
from nexus.training.choices import Choice
from nexus.training.config import TrainConfig
from nexus.training.footprint import available_memory, likely_memory
from nexus.training.launch import Settled, check, settle
from nexus.training.processes import local_device
from nexus.training.rehearsal import Rehearsal, of_one_process, rehearse
from nexus.training.summary import lr_sentence, model_sentence, step_sentence

BUDGETS = ("15min", "1h", "8h")
_UNITS = {"s": 1, "min": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True)
class Budget:
    """What a length of time gives; evaluations and checkpoints on the way are not in it."""

    name: str
    seconds: float
    steps: int
    images: int
    """Images shown."""
    passes: float
    """How often each image is shown."""
    command: str
    """The run that lasts so long."""


@dataclass(frozen=True)
class Plan:
    """Everything that `nexus plan` found."""

    description: str
    """What is in the data."""
    images: int
    config: TrainConfig
    choices: list[Choice]
    recipe: str | None
    suggestion: str | None
    """A recipe that was made for data like these, where none was named."""
    rehearsal: Rehearsal | None
    """What a step takes; `None` where not even a small batch fits."""
    estimate: dict[str, int]
    """Bytes of one process, estimated, by what they hold."""
    available: int | None
    """Bytes of the device."""
    budgets: list[Budget]
    changes: list[Change]
    advice: list[str]
    command: str
    """The run itself, to be copied."""

    @property
    def memory(self) -> int:
        """Bytes of a process at the whole batch: from the steps that were made, else estimated."""
        return self.rehearsal.memory if self.rehearsal else sum(self.estimate.values())

    @property
    def fits(self) -> bool:
        """Whether the device has the memory; true where that is not known."""
        return self.available is None or self.memory <= self.available

    @property
    def seconds(self) -> float | None:
        """How long all steps take."""
        if self.rehearsal is None:
            return None
        return self.rehearsal.start + self.rehearsal.step * self.config.schedule.steps

    def sentences(self) -> dict[str, str]:
        """Model, step, length, learning rate in words."""
        schedule = self.config.schedule
        passes = schedule.steps * schedule.batch_size / self.images
        return {
            "model": model_sentence(self.config),
            "step": step_sentence(self.config),
            "steps": f"{schedule.steps:,}, {passes:,.1f} passes over {self.images:,} images",
            "learning rate": lr_sentence(self.config.optim, schedule.batch_size),
        }

    def as_json(self) -> dict[str, Any]:
        """For programs; seconds and bytes."""
        return {
            "data": {"description": self.description, "images": self.images},
            "recipe": self.recipe,
            "suggested_recipe": self.suggestion,
            "choices": [asdict(choice) for choice in self.choices],
            "config": self.config.model_dump(mode="json"),
            "measured": asdict(self.rehearsal) if self.rehearsal else None,
            "memory": {
                "estimate": self.estimate,
                "peak": self.memory,
                "available": self.available,
                "fits": self.fits,
            },
            "run_seconds": self.seconds,
            "budgets": [asdict(budget) for budget in self.budgets],
            "changes": [asdict(change) for change in self.changes],
            "advice": self.advice,
            "command": self.command,
        }


def plan(
    data: str | Path | Sequence[str | Path],
    *,
    model: str | None = None,
    recipe: str | None = None,
    config: str | Path | None = None,
    init: str | Path | None = None,
    overrides: Mapping[str, Any] | Sequence[str] = (),
    budgets: Sequence[str] = BUDGETS,
    seconds: float = 8.0,
) -> Plan:
    """Find out what `nexus.train` with the same words would do, and what that takes here.

    `budgets` are lengths such as `15min`, `1h`, `2.5h` or `1d`; about `seconds` go into trying steps.
    Nothing is written. Raises `NexusError` for everything that a user can mend, but not for a run that is too
    large: that is what the plan is about.
    """
    lengths = {name: budget_seconds(name) for name in budgets}
    asked = Asked(data=data, model=model, recipe=recipe, config=config, init=init, overrides=overrides)
    settled = settle(asked.settings())
    check(settled.config, settled.dataset, memory=False)
    available = available_memory(local_device(settled.config.compute.device))
    rehearsal = rehearse(settled.config, settled.dataset, seconds)
    command = _command(asked, settled)
    images = len(settled.dataset)
    return Plan(
        description=f"{settled.dataset.description}: {scan(settled.dataset).sentence()}",
        images=images,
        config=settled.config,
        choices=settled.choices,
        recipe=recipe,
        suggestion=None if recipe or config or model else fitting_recipe(settled.facts, settled.config),
        rehearsal=rehearsal,
        estimate=likely_memory(of_one_process(settled.config)),
        available=available,
        budgets=[_budget(*item, settled, rehearsal, command) for item in lengths.items()]
        if rehearsal
        else [],
        changes=changes(settled.config, rehearsal, available),
        advice=advice(settled.config, images, rehearsal, available),
        command=shlex.join(command),
    )


def budget_seconds(text: str) -> float:
    """Seconds of `90s`, `15min`, `1.5h` or `1d`; raises `ConfigError`."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?(s|min|m|h|d)", text.strip())
    if not found or not float(found[1]):
        raise ConfigError(
            f"{text!r} is no length of time; write a number and s, min, h or d, as in 15min or 8h"
        )
    return float(found[1]) * _UNITS["min" if found[2] == "m" else found[2]]


def _budget(name: str, seconds: float, settled: Settled, found: Rehearsal, command: list[str]) -> Budget:
    steps = max(int((seconds - found.start) / found.step), 0)
    images = steps * settled.config.schedule.batch_size
    words = [word for word in command if not word.startswith("schedule.steps=")] + [f"schedule.steps={steps}"]
    passes = images / len(settled.dataset)
    return Budget(name, seconds, steps, images, passes, shlex.join(words) if steps else "")


def _command(asked: Asked, settled: Settled) -> list[str]:
    """`nexus train` with the words that were given."""
    words = ["nexus", "train", "--data", settled.config.data.source]
    for option, value in (
        ("--model", asked.model),
        ("--recipe", asked.recipe),
        ("--config", asked.config),
        ("--init", asked.init),
    ):
        words += [option, str(value)] if value is not None else []
    overrides = asked.overrides
    if isinstance(overrides, Mapping):
        overrides = [f"{key}={value}" for key, value in overrides.items()]
    return [*words, "--out", "runs/a", *([overrides] if isinstance(overrides, str) else overrides)]
