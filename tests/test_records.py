"""Result files are strict JSON, also where a number is missing."""

import json
import math

import pytest

from nexus.evals import KNNConfig, compare, evaluate
from nexus.records import line_of, strict, write_record
from nexus.training.metrics import append_line, read_lines
from tests.evals.stubs import TinyBackbone


def refuse(word):
    raise ValueError(f"{word} is not JSON")


def strictly(text):
    """As JavaScript, jq and most other languages read it."""
    return json.loads(text, parse_constant=refuse)


def test_the_parser_is_strict():
    with pytest.raises(ValueError, match="NaN is not JSON"):
        strictly('{"a": NaN}')


def test_what_is_no_number_is_null_however_deep(tmp_path):
    record = {"a": math.nan, "b": [1.5, (math.inf, {"c": -math.inf, "d": "NaN", "e": True, "f": None})]}
    expected = {"a": None, "b": [1.5, [None, {"c": None, "d": "NaN", "e": True, "f": None}]]}
    assert strict(record) == expected
    assert strictly(line_of(record)) == expected
    assert line_of(record).count("\n") == 1
    write_record(tmp_path / "r.json", record)
    assert strictly((tmp_path / "r.json").read_text()) == expected


def test_metrics_are_strict_and_still_read(tmp_path):
    path = tmp_path / "metrics.jsonl"
    append_line(path, {"step": 1, "loss": math.nan, "lr": 0.1})
    assert strictly(path.read_text()) == {"step": 1, "loss": None, "lr": 0.1}
    assert read_lines(path) == [{"step": 1, "loss": None, "lr": 0.1}]


def test_evaluations_without_a_value_are_strict(tmp_path, monkeypatch):
    """A task whose interval is NaN, as that of average precision without a positive is."""
    monkeypatch.setattr("nexus.evals.results.percentile_interval", lambda scores: [math.nan, math.nan])
    shared = {"size": 32, "device": "cpu", "knn": KNNConfig(k=(3,)), "baseline": False}
    data = "synthetic:n=40,size=32,classes=2"
    evaluate(data, TinyBackbone(), "knn", out=tmp_path, html=True, **shared)
    compare(data, [TinyBackbone(), TinyBackbone()], "knn", out=tmp_path, **shared)
    assert strictly((tmp_path / "eval.json").read_text())["knn"]["interval"] == [None, None]
    assert strictly((tmp_path / "compare.json").read_text())["table"][0]["interval"] == [None, None]
