"""What metrics.jsonl holds, and that damage to it is survived."""

import json
import math

import pytest
import torch

from nexus.config import build, read_yaml
from nexus.training import TrainConfig
from nexus.training.config import Schedules
from nexus.training.metrics import RunningMeans, append_line, read_lines, sentence, truncate_after
from tests.training import runs


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("metrics") / "run"
    runs.run(out, schedule__steps=7, log__every=3, crops__local_number=3)
    return out


def test_lines_come_at_the_first_the_last_and_every_nth_step(run):
    assert [record["step"] for record in read_lines(run / "metrics.jsonl")] == [1, 3, 6, 7]
    assert [record["seen"] for record in read_lines(run / "metrics.jsonl")] == [4, 12, 24, 28]


def test_every_line_is_strict_json_with_all_keys(run):
    def refuse(word):
        raise AssertionError(word)

    for line in (run / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line, parse_constant=refuse)
        assert record.keys() == {
            "step", "seen", "loss", "finite", "center_norm", "images_per_second", "data_wait",
            "flops_per_second", "mfu", "peak_memory",
            "loss/dino_global", "loss/dino_local", "loss/ibot", "loss/koleo",
            "uniform/dino_global", "uniform/dino_local", "uniform/ibot", "uniform/entropy",
            "teacher/entropy", "teacher/patch_entropy", "teacher/kl", "student/std", "student/cosine",
            "grad_norm/backbone", "grad_norm/head",
            "lr", "last_layer_lr", "weight_decay", "momentum", "teacher_temp",
        }  # fmt: skip
        assert record["images_per_second"] > 0
        assert 0 <= record["data_wait"] <= 1
        assert 0 < record["mfu"] < 1
        assert record["peak_memory"] > 1e8
        assert record["grad_norm/backbone"] > 0
        assert record["finite"] == 1
        assert 0 < record["student/std"] < 1
        assert -1 < record["student/cosine"] < 1
        cross_entropy = record["loss/dino_global"] + record["loss/dino_local"]  # dino_weight is 1
        assert record["teacher/kl"] == pytest.approx(cross_entropy - record["teacher/entropy"], rel=1e-4)


def test_references_are_what_uniform_outputs_would_cost(run):
    """ln K, shared among 2·1 global and 2·3 local pairs, and among masked and unmasked crops."""
    first = read_lines(run / "metrics.jsonl")[0]
    assert first["uniform/entropy"] == pytest.approx(math.log(64), rel=1e-6)
    assert first["uniform/dino_global"] == pytest.approx(math.log(64) * 2 / 8, rel=1e-6)
    assert first["uniform/dino_local"] == pytest.approx(math.log(64) * 6 / 8, rel=1e-6)
    assert first["uniform/ibot"] == pytest.approx(math.log(64) * 4 / 8, rel=1e-6)  # half of 2 · 4 crops
    parts = sum(value for key, value in first.items() if key.startswith("loss/"))
    assert first["loss"] == pytest.approx(parts, rel=1e-5)


def test_scheduled_values_are_those_of_the_step(run):
    schedules = Schedules(build(TrainConfig, read_yaml(run / "config.yaml")))
    for record in read_lines(run / "metrics.jsonl"):
        values = schedules.at(record["step"] - 1)
        for name in ("lr", "last_layer_lr", "weight_decay", "momentum", "teacher_temp"):
            assert record[name] == pytest.approx(getattr(values, name), rel=1e-6), name


def test_running_means_leave_out_what_is_not_finite():
    means = RunningMeans()
    for value in (1.0, math.nan, 3.0, math.inf):
        means.add({"a": torch.tensor(value), "b": torch.tensor(math.nan)})
    assert means.read() == {"a": 2.0}
    assert means.read() == {}


def test_running_means_go_on_exactly_after_a_trip_through_json():
    values = torch.rand(20, generator=torch.Generator().manual_seed(1))
    whole, first, second = RunningMeans(), RunningMeans(), RunningMeans()
    for value in values:
        whole.add({"a": value})
    for value in values[:7]:
        first.add({"a": value})
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for value in values[7:]:
        second.add({"a": value})
    assert second.read() == whole.read()


def test_truncated_and_damaged_lines(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for step in (1, 2, 3, 4):
        append_line(path, {"step": step, "loss": 1 / step})
    path.write_text(path.read_text().replace('{"step": 2, "loss": 0.5}', '{"st\x00') + '{"step": 5, "lo')
    assert [record["step"] for record in read_lines(path)] == [1, 3, 4]
    truncate_after(path, 3)
    append_line(path, {"step": 4})
    assert path.read_text() == '{"step": 1, "loss": 1.0}\n{"step": 3, "loss": 0.3333333}\n{"step": 4}\n'


def test_a_run_whose_last_line_is_cut_off_goes_on(tmp_path):
    out = tmp_path / "run"
    runs.run(out, schedule__steps=3)
    with (out / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    runs.resume(out, schedule__steps=5)
    assert [line["step"] for line in runs.lines(out)] == [1, 2, 3, 4, 5]


def test_a_sentence_for_people():
    record = {"step": 3, "loss": 9.1, "loss/ibot": 2.5, "uniform/ibot": 2.4}
    record |= {"images_per_second": 31.25, "data_wait": 0.034, "mfu": 0.61}
    text = "step 3/60  loss 9.100  ibot 2.500 (uniform 2.400)  31.2 images/s  data wait 3%  MFU 61%"
    assert sentence(record, 60) == text
    assert sentence({"step": 3}, 60) == "step 3/60  loss nan"
