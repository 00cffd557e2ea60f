"""Logs of other tools, whole and broken; official lines as users posted them (dinov2 issues 143, 479)."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from nexus.errors import RunError
from nexus.health.diagnosis import diagnose
from nexus.health.logs import read_log

OFFICIAL = {
    "iter_time": 3.6,
    "data_time": 0.9,
    "wd": 0.04,
    "mom": 0.994,
    "current_batch_size": 20.0,
}
STALLED = {
    "lr": 1e-6,
    "last_layer_lr": 1e-6,
    "total_loss": 14.63,
    "dino_local_crops_loss": 9.87,
    "dino_global_crops_loss": 1.234,
    "koleo_loss": 0.54,
    "ibot_loss": 2.78,
}
LEARNING = {
    "lr": 1.8e-5,
    "last_layer_lr": 1.8e-5,
    "total_loss": 10.99,
    "dino_local_crops_loss": 7.494,
    "dino_global_crops_loss": 0.935,
    "koleo_loss": -0.03,
    "ibot_loss": 2.592,
}


def write(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def official(folder: Path, values: dict[str, float], steps: int = 5000) -> Path:
    first = {
        **OFFICIAL,
        **STALLED,
        "iteration": 0,
        "dino_local_crops_loss": 10.02,
        "dino_global_crops_loss": 1.253,
    }
    lines = [{**OFFICIAL, **values, "iteration": i} for i in range(10, steps, 10)]
    return write(folder / "training_metrics.json", [first, *lines])


def test_an_official_run_that_stalls(tmp_path: Path) -> None:
    log = read_log(official(tmp_path, STALLED))
    assert log.course.tool == "dinov2"
    assert log.notes == ["65,536 prototypes, guessed from the first loss, 11.27; give --prototypes"]
    assert log.course.last("dino") == pytest.approx((9.87 + 1.234) / math.log(65536))
    assert log.course.last("ibot") == pytest.approx(2.78 / (math.log(65536) / 4))
    assert diagnose(log.course).name == "uniform-collapse"


def test_an_official_run_that_learns(tmp_path: Path) -> None:
    log = read_log(official(tmp_path, LEARNING))
    assert log.course.last("momentum") == 0.994
    assert log.course.last("dino") == pytest.approx(0.76, abs=0.01)
    assert not diagnose(log.course).ill


def test_the_number_of_prototypes_from_the_config_or_the_user(tmp_path: Path) -> None:
    file = official(tmp_path, LEARNING)
    settings = "dino: {head_n_prototypes: 131072}\ncrops: {local_crops_number: 8}\n"
    (tmp_path / "config.yaml").write_text(
        settings + "optim: {epochs: 100}\ntrain: {OFFICIAL_EPOCH_LENGTH: 1250}\n"
    )
    log = read_log(tmp_path)
    assert log.file == file
    assert log.notes == ["131,072 prototypes, from config.yaml"]
    assert log.course.total == 125_000
    assert log.course.last("uniform/dino_global") == pytest.approx(math.log(131072) / 9)
    given = read_log(tmp_path, prototypes=4096)
    assert given.course.last("uniform/dino_local") == pytest.approx(math.log(4096) * 8 / 9)


def test_an_official_last_layer_that_stays_frozen(tmp_path: Path) -> None:
    log = read_log(official(tmp_path, {**LEARNING, "last_layer_lr": 0.0}))
    assert diagnose(log.course).name == "last-layer-frozen"


def test_lightly_train(tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = []
    for step in range(0, 3000, 50):
        lines.append({"step": step, "epoch": 0, "train_loss": 12.0, "ibot_loss": 5.5, "koleo_loss": 0.1})
        lines.append({"step": step, "dino_global_loss": 11.09 / 9, "dino_local_loss": 11.09 * 8 / 9})
    log = read_log(write(tmp_path / "metrics.jsonl", lines))
    assert log.course.tool == "lightly-train"
    assert log.course.last("dino") == pytest.approx(1.0, abs=0.001)
    assert log.course.last("ibot") == pytest.approx(0.99, abs=0.01)
    assert diagnose(log.course).name == "uniform-collapse"


def test_dino(tmp_path: Path) -> None:
    lines = [{"train_loss": 11.0902, "train_lr": 5e-4, "epoch": epoch} for epoch in range(2000)]
    log = read_log(write(tmp_path / "log.txt", lines))
    assert log.course.last("dino") == pytest.approx(1.0, abs=0.001)
    assert diagnose(log.course).name == "uniform-collapse"


def test_half_lines_nan_and_lines_out_of_order(tmp_path: Path) -> None:
    file = write(
        tmp_path / "metrics.jsonl", [{"step": s, "loss": 2.0, "loss/ibot": s} for s in (10, 20, 5, 20)]
    )
    with file.open("a") as end:
        end.write('not json\n[1, 2]\n{"no": "step"}\n\n{"step": 30, "loss": NaN}\n{"step": 40, "lo')
    log = read_log(tmp_path)
    assert log.notes == ["4 damaged lines skipped"]
    assert log.course.step == 30
    assert log.course.of("loss/ibot") == [(5, 5.0), (10, 10.0), (20, 20.0)]
    assert log.course.broken("loss") == 1


@pytest.mark.parametrize("content", ["", "\x00\xff binary", "[]\n", '{"a": 1}\n', '{"step": 1, "cats": 2}\n'])
def test_what_is_no_log_is_said_to_be_none(tmp_path: Path, content: str) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(RunError, match=r"metrics\.jsonl"):
        read_log(file)


def test_no_log_at_all(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="holds no log"):
        read_log(tmp_path)
    with pytest.raises(RunError, match="does not exist"):
        read_log(tmp_path / "nowhere")


def test_online_evaluations_beside_the_log(tmp_path: Path) -> None:
    write(tmp_path / "metrics.jsonl", [{"step": s, "loss": 1.0} for s in (1, 2)])
    (tmp_path / "evals").mkdir()
    (tmp_path / "evals" / "step_0000002.json").write_text(json.dumps({"step": 2, "knn": {"top1": 0.5}}))
    (tmp_path / "evals" / "step_0000004.json").write_text("{")
    assert read_log(tmp_path).course.of("knn") == [(2, 0.5)]
