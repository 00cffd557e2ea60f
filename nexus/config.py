"""Typed, strict settings: pydantic models ← YAML recipe ← `section.key=value` overrides.

A section of the configuration is a frozen `Config` declared next to the code that reads it; the sentence
under each field is its documentation everywhere. Unknown keys are refused with the nearest known one.
This file knows no section of nexus.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from nexus.errors import ConfigError, nearest

C = TypeVar("C", bound="Config")
Tree = dict[str, Any]


class Config(BaseModel):
    """Base of every section: frozen, unknown keys refused, defaults checked too."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, use_attribute_docstrings=True
    )


def build(kind: type[C], values: Mapping[str, Any]) -> C:
    """`kind(**values)`, with every mistake in one `ConfigError` that names key, value and rule."""
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        problems = [_explain(kind, problem) for problem in error.errors()]
        raise ConfigError("\n".join(problems)) from None


def fields(kind: type[Config], prefix: str = "") -> dict[str, str]:
    """Every dotted key of a configuration tree with the sentence that documents it."""
    found: dict[str, str] = {}
    for name, field in kind.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, Config):
            found.update(fields(section, f"{prefix}{name}."))
        else:
            found[prefix + name] = field.description or ""
    return found


def read_yaml(path: Path) -> Tree:
    """The mapping in a YAML file; an empty file is an empty mapping."""
    try:
        values = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path} should hold `key: value` pairs, but holds {type(values).__name__}")
    return values


def dump_yaml(config: Config) -> str:
    """The resolved configuration as YAML that `read_yaml` and `build` take back unchanged."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, width=100)


def merge(*trees: Mapping[str, Any]) -> Tree:
    """Nested dictionaries laid over each other; later ones win, leaf by leaf."""
    result: Tree = {}
    for tree in trees:
        for key, value in tree.items():
            old = result.get(key)
            if isinstance(old, dict) and isinstance(value, Mapping):
                result[key] = merge(old, value)
            else:
                result[key] = merge(value) if isinstance(value, Mapping) else value
    return result


def parse_overrides(assignments: Iterable[str]) -> Tree:
    """`["optim.lr=1e-3", "crops.local_number=4"]` as a nested tree; values are read as YAML."""
    tree: Tree = {}
    for assignment in assignments:
        key, separator, text = assignment.partition("=")
        if not separator or not key.strip():
            raise ConfigError(f"{assignment!r} is not an override; write section.key=value")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise ConfigError(f"the value of {key.strip()!r} is not valid YAML: {text!r}") from None
        tree = merge(tree, from_dotted({key.strip(): value}))
    return tree


def from_dotted(values: Mapping[str, Any]) -> Tree:
    """`{"optim.lr": 1e-3}` as `{"optim": {"lr": 1e-3}}`."""
    tree: Tree = {}
    for dotted, value in values.items():
        branch: Any = value
        for part in reversed(dotted.split(".")):
            branch = {part: branch}
        tree = merge(tree, branch)
    return tree


def _explain(kind: type[Config], problem: Any) -> str:
    """One pydantic complaint as `key=value: what is wrong`, with the nearest key for a typo."""
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = fields(kind)
        guess = nearest(key, known) or _same_leaf(key, known)
        return f"unknown setting {key!r}" + (f"; did you mean {guess!r}?" if guess else "")
    message = problem["msg"].removeprefix("Value error, ")
    return f"{key}={problem['input']!r}: {message}" if key else message


def _same_leaf(key: str, known: Iterable[str]) -> str | None:
    """A known key whose last part is that of `key`: the section was forgotten or wrong."""
    leaf = key.rpartition(".")[2]
    return next((name for name in known if name.rpartition(".")[2] == leaf), None)
