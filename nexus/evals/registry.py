"""Every evaluation by its name, and their settings as one tree. A new task is one line here."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib import import_module
from typing import Any

from pydantic import create_model

from nexus.config import Config, build, from_dotted, merge, parse_overrides
from nexus.errors import ConfigError, choose
from nexus.evals.task import Task

TASKS: dict[str, str] = {
    "knn": "nexus.evals.knn",
    "linear": "nexus.evals.linear",
    "instance": "nexus.evals.instance.task",
    "retrieval": "nexus.evals.retrieval.task",
    "logreg": "nexus.evals.logreg",
    "attentive": "nexus.evals.attentive",
    "robustness": "nexus.evals.robustness",
    "segmentation": "nexus.evals.dense.segmentation",
    "depth": "nexus.evals.dense.depth",
}
"""Name → the module that holds its `TASK`; imported when it is used."""


def task_named(name: str) -> Task:
    """The task, or a `ConfigError` that names the nearest."""
    return import_module(choose(name, TASKS, "task")).TASK


def task_names(tasks: str | Sequence[str]) -> list[str]:
    """Names, or one text with commas, as names that exist, each once."""
    names = [tasks] if isinstance(tasks, str) else list(tasks)
    names = [name.strip() for text in names for name in text.split(",") if name.strip()]
    for name in names:
        choose(name, TASKS, "task")
    if not names:
        raise ConfigError(f"tasks is empty, so there is nothing to evaluate; known: {', '.join(TASKS)}")
    return list(dict.fromkeys(names))


Settings = Mapping[str, Config | Mapping[str, Any] | None]


def task_configs(
    names: Sequence[str], given: Settings, overrides: Iterable[str] | Mapping[str, Any] = ()
) -> dict[str, Config]:
    """The settings of each task: its defaults, what was `given`, then `overrides` such as `linear.epochs=5`.

    Raises `ConfigError` for a wrong value, a key that does not exist (with the nearest one), or one of a task
    that is not among `names`.
    """
    laid = {
        name: config.model_dump() if isinstance(config, Config) else dict(config)
        for name, config in given.items()
        if config is not None
    }
    over = from_dotted(overrides) if isinstance(overrides, Mapping) else parse_overrides(overrides)
    tree = merge(laid, over)
    for name in tree:
        if name in TASKS and name not in names:
            raise ConfigError(
                f"settings of {name}, which is not evaluated; add it to the tasks ({', '.join(names)})"
            )
    whole = build(_all_settings(), tree)
    return {name: getattr(whole, name) for name in names}


@cache
def _all_settings() -> type[Config]:
    """One section for each task."""
    sections: dict[str, Any] = {}
    for name in TASKS:
        kind = task_named(name).config
        sections[name] = (kind, kind())
    return create_model("EvalSettings", __base__=Config, **sections)
