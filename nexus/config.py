"""Typed, strict settings: pydantic models ← YAML recipe ← `section.key=value` overrides.

A section of the configuration is a frozen `Config` declared next to the code that reads it; the sentence
under each field is its documentation everywhere. Unknown keys are refused with the nearest known one.
This file knows no section of nexus.
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from nexus.errors import ConfigError, nearest, unknown

C = TypeVar("C", bound="Config")
Tree = dict[str, Any]

Share = Annotated[float, Field(ge=0, le=1)]
"""A number from 0 to 1: a probability, a momentum, a part of a whole."""


class Config(BaseModel):
    """Base of every section: frozen, unknown keys refused, defaults checked too."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_default=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        coerce_numbers_to_str=True,
    )


def build(kind: type[C], values: Mapping[str, Any]) -> C:
    """`kind(**values)`, with every mistake in one `ConfigError` that names key, value and rule."""
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError("\n".join(_explain_all(kind, values, error))) from None


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
    """The mapping in a YAML file, dotted keys as nested ones; an empty file is an empty mapping."""
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise ConfigError(f"cannot read the settings in {path}: {error.strerror}; check the path") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {_where(error)}") from None
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigError(f"{path} should hold `key: value` pairs, such as `optim: {{lr: 1e-3}}`")
    return from_dotted(values)


class _Loader(yaml.SafeLoader):
    """YAML 1.1, but `1e-3` is a number, as everywhere else, and a key that is written twice an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping of a node; the YAML library alone would quietly keep the last of two equal keys."""
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE_KEY:
                if key.value in seen:
                    raise yaml.MarkedYAMLError(problem=f"{key.value!r} twice", problem_mark=key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


_MERGE_KEY = "tag:yaml.org,2002:merge"


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+"), list("-+0123456789")
)


def _where(error: Exception) -> str:
    """The complaint of a YAML parser in one line."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return str(error).partition("\n")[0]


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
        key, separator, text = (part.strip() for part in assignment.partition("="))
        if not separator or not key:
            raise ConfigError(
                f"{assignment!r} is not a setting; write section.key=value, such as optim.lr=1e-3 "
                "(options begin with --)"
            )
        try:
            value = yaml.load(text, _Loader)
        except yaml.YAMLError:
            raise ConfigError(
                f"{key}={text} cannot be read; quote it, or write a list as [0.4, 1.0]"
            ) from None
        tree = merge(tree, from_dotted({key: value}))
    return tree


def from_dotted(values: Mapping[str, Any]) -> Tree:
    """`{"optim.lr": 1e-3}` as `{"optim": {"lr": 1e-3}}`."""
    tree: Tree = {}
    for dotted, value in values.items():
        if not isinstance(dotted, str):
            raise ConfigError(f"{dotted!r} is not the name of a setting; write it as in 'optim.lr'")
        branch: Any = value
        for part in reversed(dotted.split(".")):
            branch = {part: branch}
        tree = merge(tree, branch)
    return tree


# -- explaining what is wrong ---------------------------------------------------------------------


def _explain_all(kind: type[Config], values: Mapping[str, Any], error: ValidationError) -> list[str]:
    """One line for each wrong setting; pydantic may complain several times about the same one."""
    lines: dict[str, str] = {}
    for problem in error.errors():
        path = _known_path(kind, problem["loc"])
        if problem["type"] == "extra_forbidden":
            lines.update({key: _unknown(kind, key) for key in _leaves(path, problem["input"])})
            continue
        key = ".".join(path)
        line = _explain(kind, path, _at(values, path), problem)
        lines[key] = _either(lines[key], line) if key in lines else line
    return list(lines.values())


def _either(line: str, other: str) -> str:
    """Two complaints about one setting, of which it is enough to mend one, as a single sentence."""
    head, mark, example = line.partition("; for example ")
    rule = other.partition(" should be ")[2].partition("; for example ")[0]
    return f"{head}, or {rule}{mark}{example}" if rule else line


def _known_path(kind: type[Config], loc: tuple[int | str, ...]) -> list[str]:
    """The part of pydantic's location that people write: sections and one field, no branch of a type."""
    path: list[str] = []
    section: Any = kind
    for part in loc:
        path.append(str(part))
        field = section.model_fields.get(part)
        section = field.annotation if field else None
        if not (isinstance(section, type) and issubclass(section, Config)):
            break
    return path


def _explain(kind: type[Config], path: list[str], value: Any, problem: Any) -> str:
    """`key=value` and the rule that it breaks."""
    key, field = ".".join(path), _field(kind, path)
    shown = f"{key}={value if isinstance(value, str) else json.dumps(value, default=str)}"
    if field is None or problem["type"] == "model_type":
        return _explain_section(kind, path, value, problem)
    if problem["type"] == "literal_error":
        choices = str(problem["ctx"]["expected"]).replace("'", "").replace(" or ", ", ").split(", ")
        return unknown(key, str(value), choices)
    if problem["type"] == "value_error":
        return f"{shown} {problem['ctx']['error']}"
    example = field.default
    hint = "" if example in (None, "") or field.is_required() else f"; for example {key}={_plain(example)}"
    return f"{shown} should be {_rule(problem)}{hint}"


def _explain_section(kind: type[Config], path: list[str], value: Any, problem: Any) -> str:
    """What is wrong with a whole section, or between its settings."""
    prefix = "".join(f"{part}." for part in path)
    if problem["type"] == "value_error":
        message = str(problem["ctx"]["error"])
        leaf = re.match(r"\w+", message)
        return prefix + message if leaf and _field(kind, [*path, leaf[0]]) else message
    first = next((key for key in fields(kind) if key.startswith(prefix)), prefix)
    if value is None:
        return f"{prefix[:-1]} is an empty section; leave it out, or set one of its keys, such as {first}=..."
    return f"{prefix[:-1]}={value} sets a whole section; set one of its keys, such as {first}=..."


def _rule(problem: Any) -> str:
    """The end of `... should be`, for pydantic's kinds of error."""
    context = problem.get("ctx", {})
    for kind, template in _RULES.items():
        if problem["type"].startswith(kind):
            return template.format(**context)
    return problem["msg"].removeprefix("Input should be ").removeprefix("Value error, ")


_RULES = {
    "int_from_float": "a whole number",
    "int": "a whole number",
    "float": "a number",
    "finite_number": "a finite number",
    "bool": "true or false",
    "string": "text",
    "greater_than_equal": "{ge:.10g} or more",
    "greater_than": "more than {gt:.10g}",
    "less_than_equal": "{le:.10g} or less",
    "less_than": "less than {lt:.10g}",
    "tuple": "a list, such as [0.4, 1.0]",
    "too_short": "a list of {min_length}",
    "too_long": "a list of {max_length}",
    "missing": "a list with more entries",
}
"""What the beginnings of pydantic's error types mean; the first that fits is taken."""


def _plain(value: Any) -> str:
    return json.dumps(value).strip('"')


def _field(kind: type[Config], path: list[str]) -> FieldInfo | None:
    """The field at a path, if it is one and no section."""
    section: Any = kind
    for part in path[:-1]:
        section = section.model_fields[part].annotation
    field = section.model_fields.get(path[-1]) if path else None
    is_section = field and isinstance(field.annotation, type) and issubclass(field.annotation, Config)
    return None if is_section else field


def _at(values: Mapping[str, Any], path: list[str]) -> Any:
    """The value that was given at a path."""
    value: Any = values
    for part in path:
        value = value.get(part) if isinstance(value, Mapping) else getattr(value, part, None)
    return value


def _leaves(path: list[str], value: Any) -> list[str]:
    """The dotted keys below a path."""
    if isinstance(value, Mapping) and value:
        return [key for part, below in value.items() for key in _leaves([*path, str(part)], below)]
    return [".".join(path)]


def _unknown(kind: type[Config], key: str) -> str:
    """The message for a setting that does not exist: the nearest one, or all of its section."""
    known = fields(kind)
    section, _, leaf = key.rpartition(".")
    siblings = {name.rpartition(".")[2]: name for name in known if name.rpartition(".")[0] == section}
    guess = siblings.get(nearest(leaf, siblings) or "") or _same_leaf(leaf, known)
    if guess is None and not siblings:
        guess = nearest(key, known)
    if guess:
        return f"unknown setting {key!r}; did you mean {guess!r}?"
    if siblings:
        return f"unknown setting {key!r}. Known here: {', '.join(siblings.values())}"
    sections = dict.fromkeys(name.partition(".")[0] for name in known)
    return f"unknown setting {key!r}. Known sections: {', '.join(sections)}"


def _same_leaf(leaf: str, known: Iterable[str]) -> str | None:
    """A known key that ends in `leaf`: the section was forgotten or wrong."""
    return next((name for name in known if name.rpartition(".")[2] == leaf), None)
