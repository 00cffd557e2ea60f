"""Settings: merging, YAML, overrides, and messages that name key, value, rule and cure."""

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field, PositiveInt, model_validator

from nexus.config import (
    Config,
    Share,
    build,
    dump_yaml,
    fields,
    from_dotted,
    merge,
    parse_overrides,
    read_yaml,
)
from nexus.errors import ConfigError


class Inner(Config):
    """A section."""

    rate: Share = 0.5
    """A rate."""
    size: PositiveInt | None = None
    """A size."""
    pair: tuple[float, float] = (0.1, 1.0)
    """A pair."""
    either: int | tuple[int, int] = 3
    """One number or two."""
    kind: Literal["sqrt", "linear"] = "sqrt"
    """A kind."""
    on: bool = False
    """A switch."""

    @model_validator(mode="after")
    def _ordered(self) -> "Inner":
        if self.pair[0] > self.pair[1]:
            raise ValueError(f"pair={list(self.pair)} is descending; exchange them")
        return self


class Outer(Config):
    """The tree."""

    name: str = "x"
    """A name."""
    steps: Annotated[int, Field(ge=1, le=100)] = 10
    """A count."""
    inner: Inner = Inner()
    """A section."""


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("step=3", "unknown setting 'step'; did you mean 'steps'?"),
        ("inner.rat=1", "unknown setting 'inner.rat'; did you mean 'inner.rate'?"),
        ("iner.rate=1", "unknown setting 'iner.rate'; did you mean 'inner.rate'?"),
        ("rate=1", "unknown setting 'rate'; did you mean 'inner.rate'?"),
        ("inner.zzz=1", "unknown setting 'inner.zzz'. Known here: inner.rate, inner.size"),
        ("q.zzz=1", "unknown setting 'q.zzz'. Known sections: name, steps, inner"),
        ("steps=many", "steps=many should be a whole number; for example steps=10"),
        ("steps=1.5", "steps=1.5 should be a whole number; for example steps=10"),
        ("steps=", "steps=null should be a whole number; for example steps=10"),
        ("steps=0", "steps=0 should be 1 or more; for example steps=10"),
        ("steps=101", "steps=101 should be 100 or less; for example steps=10"),
        ("inner.rate=nan", "inner.rate=nan should be a finite number; for example inner.rate=0.5"),
        ("inner.rate=-1", "inner.rate=-1 should be 0 or more; for example inner.rate=0.5"),
        ("inner.rate.x=1", 'inner.rate={"x": 1} should be a number; for example inner.rate=0.5'),
        ("inner.size=0", "inner.size=0 should be more than 0"),
        ("inner.on=7", "inner.on=7 should be true or false; for example inner.on=false"),
        ("inner.pair=3", "inner.pair=3 should be a list"),
        (
            "inner.pair=[1]",
            "inner.pair=[1] should be a list with more entries; for example inner.pair=[0.1, 1.0]",
        ),
        ("inner.pair=[1, 2, 3]", "inner.pair=[1, 2, 3] should be a list of 2"),
        ("inner.pair=[a, 2]", 'inner.pair=["a", 2] should be a number'),
        ("inner.pair=[2, 1]", "inner.pair=[2.0, 1.0] is descending; exchange them"),
        ("inner.kind=linaer", "unknown inner.kind 'linaer'; did you mean 'linear'? Known: linear, sqrt"),
        ("inner=3", "inner=3 sets a whole section; set one of its keys, such as inner.rate=..."),
        ("=3", "'=3' is not a setting; write section.key=value"),
        ("images/", "'images/' is not a setting; write section.key=value"),
        ("inner.pair=[1", "inner.pair=[1 cannot be read"),
    ],
)
def test_a_wrong_setting_is_answered_with_key_value_and_rule(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(Outer, parse_overrides([override]))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_branch_of_a_type_appears_as_a_key() -> None:
    with pytest.raises(ConfigError) as caught:
        build(Outer, {"inner": {"either": "x"}})
    text = str(caught.value)
    assert text.startswith("inner.either=x should be a whole number, or a list")
    assert "either.int" not in text
    assert "either.tuple" not in text


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        build(Outer, parse_overrides(["stepz=1", "inner.rate=2", "inner.kind=x"]))
    assert len(str(caught.value).splitlines()) == 3


def test_later_values_win_leaf_by_leaf_and_nothing_is_shared() -> None:
    first, second = {"a": {"b": 1, "c": 2}}, {"a": {"c": 3}, "d": [1]}
    merged = merge(first, second)
    assert merged == {"a": {"b": 1, "c": 3}, "d": [1]}
    merged["a"]["b"] = 9
    assert first["a"]["b"] == 1
    assert merge({"a": {"b": 1}}, {"a": 2}) == {"a": 2}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("2E5", 2e5),
        ("-1.5", -1.5),
        ("true", True),
        ("[0.4, 1]", [0.4, 1]),
        ("a=b", "a=b"),
        ("null", None),
        ("e5", "e5"),
        ("", None),
    ],
)
def test_values_are_yaml_with_plain_exponents(text: str, value: object) -> None:
    assert parse_overrides([f"inner.rate={text}"]) == {"inner": {"rate": value}}


def test_numbers_written_with_an_exponent_fit_integers() -> None:
    assert build(Outer, parse_overrides(["steps=1e2", "name=2"])) == Outer(steps=100, name="2")


def test_dotted_keys_make_a_tree() -> None:
    assert from_dotted({"a.b.c": 1, "a.d": 2}) == {"a": {"b": {"c": 1}, "d": 2}}


def test_yaml_round_trip(tmp_path: Path) -> None:
    config = build(Outer, {"inner": {"pair": [0.25, 0.75], "size": 7, "rate": 1e-6}})
    file = tmp_path / "config.yaml"
    file.write_text(dump_yaml(config))
    assert build(Outer, read_yaml(file)) == config
    file.write_text("")
    assert read_yaml(file) == {}


def test_yaml_takes_dotted_keys_like_every_other_door(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("inner.size: 7\ninner: {rate: 1e-3}\n")
    assert read_yaml(file) == {"inner": {"size": 7, "rate": 1e-3}}


def test_yaml_keeps_its_own_ways_to_repeat(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\n")
    assert read_yaml(file)["b"] == {"x": 1, "y": 3}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1", r"is not valid YAML: line \d+: "),
        (b"- a", "should hold `key: value` pairs"),
        (b"just words", "should hold `key: value` pairs"),
        (b"1: 2", "should hold `key: value` pairs"),
        (b"a: 1\nb: {c: 1}\na: 2", "is not valid YAML: line 3: 'a' twice"),
        (b"b: {c: 1, c: 2}", "is not valid YAML: line 1: 'c' twice"),
        (b"a: \xff\xfe", "is not valid YAML"),
        (b"a: \x00", "is not valid YAML"),
        (None, "No such file"),
    ],
)
def test_files_that_are_no_settings(content: bytes | None, message: str, tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        read_yaml(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_fields_gives_every_leaf_with_its_sentence() -> None:
    found = fields(Outer)
    assert found["inner.rate"] == "A rate."
    assert "inner" not in found
    assert len(found) == 8


def test_configurations_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Outer().steps = 3  # type: ignore[misc]
