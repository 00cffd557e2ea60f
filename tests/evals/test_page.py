"""`eval.html` as a browser reads it: one file, every row, every picture, names escaped."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from nexus.drawing.images import smallest_uri
from nexus.evals import KNNConfig, evaluate
from nexus.evals.page import eval_page, verdict
from nexus.evals.task import EvalPicture
from tests.evals.stubs import TinyBackbone

SPEC = "synthetic:n=40,size=32,classes=2"
EMPTY = {"img", "meta", "link", "br"}


class Balance(HTMLParser):
    """Every tag that opens is closed, in order; addresses are kept."""

    def __init__(self):
        super().__init__()
        self.open, self.sources = [], []

    def handle_starttag(self, tag, attrs):
        if tag not in EMPTY:
            self.open.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href", "srcset")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def row(**changes):
    entry = {"task": "a<b", "features": "model", "metric": "mAP", "value": 0.5, "unit": "%"}
    return {
        **entry,
        "higher_is_better": True,
        "interval": [0.4, 0.6],
        "samples": 9,
        "chance": None,
        **changes,
    }


def result(*rows):
    return {"model": "<m>", "data": "d&d", "split": "s", "size": 32, "unreadable": ["x"], "table": list(rows)}


def test_the_page_is_whole_and_escaped():
    found = {
        **result(row(), row(features="raw pixels", value=0.25)),
        "a<b": {"split": "s", "metric": "mAP", "mAP": 0.123, "steps": 7},
    }
    page = eval_page(found, {"a<b": [EvalPicture("T", "C > c", Image.new("RGB", (9, 9)))]})
    parser = Balance()
    parser.feed(page)
    assert parser.open == []
    assert all(source.startswith("data:image/png;base64,") for source in parser.sources)
    assert len(parser.sources) == 1
    assert "&lt;m&gt;" in page
    assert "<m>" not in page
    assert "<script" not in page
    assert not re.search(r"https?://", page)
    assert "steps" in page
    assert "0.123" not in page  # the headline stands above
    assert verdict(found) == "a<b on d&d: mAP 50.0\u202f%, raw pixels 25.0\u202f%."


def test_charts_stay_sharp_and_photographs_are_small():
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert smallest_uri(Image.new("RGB", (64, 64))).startswith("data:image/png")
    assert smallest_uri(Image.fromarray(noise)).startswith("data:image/webp")


def test_other_units_say_what_guessing_gives():
    page = eval_page(result(row(unit="m", chance=0.75)), {})
    assert "guessing: 0.75\u202fm" in page


@pytest.mark.parametrize("value", [None, float("nan")])
def test_other_units_and_missing_values_have_no_bar(value):
    lone = result(row(unit="m", value=1.234, interval=[1, 2]), row(value=value, interval=[value, value]))
    page = eval_page(lone, {})
    assert "1.23\u202fm" in page
    assert 'class="bar"' not in page
    assert "–" in page


def test_evaluate_writes_it_beside_the_json(tmp_path):
    evaluate(
        SPEC, TinyBackbone(), "knn", knn=KNNConfig(k=(3,)), size=32, device="cpu", out=tmp_path, html=True
    )
    assert {path.name for path in tmp_path.iterdir()} == {"eval.json", "eval.html"}
    page = (tmp_path / "eval.html").read_text()
    assert "raw pixels" in page
    assert page.count("<tr") >= 3
    assert "Confusion" in page
