"""Evaluation while training: the tasks of `nexus eval`, their settings, and what goes wrong in them."""

import json

import pytest

from nexus.errors import ConfigError
from nexus.training.online_eval import OnlineEvaluation
from tests.training import runs

QUICK = {"min_steps": 3, "epochs": 1, "learning_rates": [0.1]}


def test_any_tasks_with_their_settings(tmp_path, caplog):
    with caplog.at_level("INFO", logger="nexus"):
        runs.run(
            tmp_path / "run",
            online_eval__every=2,
            online_eval__tasks=["knn", "linear"],
            online_eval__settings={"linear": QUICK, "knn": {"k": [3]}},
            schedule__steps=2,
        )
    found = json.loads((tmp_path / "run" / "evals" / "step_0000002.json").read_text())
    assert list(found) == ["step", "knn", "linear"]
    assert list(found["knn"]["k"]) == ["3"]
    assert len(found["linear"]["grid"]) == 2
    assert "step 2  k-NN " in caplog.text
    assert "step 2  linear " in caplog.text


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"tasks": ["linaer"]}, "did you mean 'linear'"),
        ({"settings": {"knn": {"kk": 3}}}, r"did you mean 'knn\.k'"),
        ({"settings": {"linear": QUICK}}, "add it to the tasks"),
    ],
)
def test_mistakes_show_before_anything_is_created(tmp_path, settings, said):
    given = {f"online_eval__{key}": value for key, value in settings.items()}
    with pytest.raises(ConfigError, match=said):
        runs.run(tmp_path / "run", online_eval__every=2, **given)
    assert not (tmp_path / "run").exists()


def test_what_takes_long_is_said_once(monkeypatch, caplog):
    now = iter([100.0, 200.0, 300.0])
    monkeypatch.setattr("nexus.training.online_eval.time.monotonic", lambda: next(now))
    evaluation = OnlineEvaluation.__new__(OnlineEvaluation)
    evaluation._ended, evaluation._said = 0.0, False
    with caplog.at_level("INFO", logger="nexus"):
        evaluation._say_if_long(5)
        evaluation._say_if_long(40)
        evaluation._say_if_long(40)
    assert caplog.text.count("evaluating took 40 s, 40 % of the time") == 1
