"""The demo from end to end, made small: a corner of each photo, a tiny model, two steps."""

import json
import math
import re
from pathlib import Path

import pytest

from benchmarks.make_demo_data import Entry, write_manifest, write_shard
from nexus.data.datasets import open_dataset
from nexus.demo import DemoResult, demo_data, pictures, run, run_demo, source
from nexus.demo.report import ReportContent
from nexus.demo.source import PLACE
from nexus.evals.linear import LinearConfig

CORNER = 6
ROWS = ["raw pixels", "untrained backbone", "student", "teacher"]


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """A pack like the embedded one, of the 6 × 6 tiles at the upper left of every photo."""
    folder = tmp_path_factory.mktemp("package")
    pack = folder / "data"
    pack.mkdir()
    made = []
    for split in ("train", "test"):
        images = open_dataset(demo_data(), split)
        for i in range(len(images)):
            found = PLACE.match(images.name(i))
            if int(found["row"]) < CORNER and int(found["column"]) < CORNER:
                name = images.name(i)
                values = (name.removesuffix(".jpg"), split, name, str(images.label(i)), found["photo"])
                keys = ("key", "split", "file", "label", "class")
                made.append(Entry(dict(zip(keys, values, strict=True)), images.read(i)))
        write_shard(pack / f"photos-{split}.tar", [e for e in made if e.row["split"] == split])
    write_manifest(pack / "manifest.csv", [entry.row for entry in made])
    return folder


def run_small(small: Path, out: Path, **changes) -> DemoResult:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source, "files", lambda package: small)
        patch.setattr(run, "LINEAR", LinearConfig(min_steps=20, max_steps=20, learning_rates=(0.1,)))
        patch.setattr(pictures, "PCA_PHOTOS", ("stones", "daisy"))
        return run_demo(out, steps=2, **changes)


@pytest.fixture(scope="module")
def result(small, tmp_path_factory) -> DemoResult:
    return run_small(small, tmp_path_factory.mktemp("runs") / "demo")


def test_rows_are_measured_on_the_test_tiles_and_written(result) -> None:
    assert list(result.rows) == ROWS
    for row in result.rows.values():
        assert all(0 < row[task] <= 1 and math.isfinite(row[task]) for task in ("knn", "linear"))
    written = json.loads((result.folder / "evals/demo.json").read_text())
    assert written["rows"] == result.rows
    assert written["verdict"] == result.verdict
    for name in ROWS:
        assert written[name]["knn"]["top1"] == result.rows[name]["knn"]
        assert written[name]["knn"]["samples"] == 90
        assert written[name]["linear"]["steps"] == 20


def test_the_run_folder_is_that_of_a_training_on_the_training_tiles(result) -> None:
    for name in ("config.yaml", "model.safetensors", "student.safetensors", "metrics.jsonl", "report.html"):
        assert (result.folder / name).stat().st_size > 0
    assert "split: train" in (result.folder / "config.yaml").read_text()
    lines = (result.folder / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert steps == [1, 2]


def test_the_report_is_complete_and_self_contained(result) -> None:
    page = result.report.read_text(encoding="utf-8")
    assert result.report == result.folder / "report.html"
    assert result.report.stat().st_size < 3_000_000
    assert result.verdict in page.replace("&#x27;", "'")
    titles = re.findall(r"<h2>(.*?)</h2>", page)
    assert titles == [
        "Are the features better?",
        "What the patches mean",
        "Nearest neighbours",
        "Loss curves",
        "Crops and masks",
        "How to go on",
        "Settings",
    ]
    assert not re.search(r"https?://|<script|url\(|@import", page)
    addresses = re.findall(r'(?:src|srcset|href)="([^"]*)"', page)
    assert all(address.startswith("data:image/") for address in addresses)
    assert page.count('class="card three"') == 2
    assert page.count('class="card likeness"') == 10


def test_the_same_seed_gives_the_same_numbers(small, result, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(run, "_content", lambda config, models, scores, *rest: bare(scores))
    again = run_small(small, tmp_path / "again")
    assert again.rows == result.rows


def bare(scores: dict) -> ReportContent:
    """A report without pictures."""
    rows = [run._score_row(name, result) for name, result in scores.items()]
    return ReportContent(title="t", lead="l", rows=rows, classes=10)
