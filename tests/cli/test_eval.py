"""`nexus eval`: where its result goes."""

import json
from pathlib import Path

import pytest

from nexus import cli
from tests.training import runs


def test_the_result_of_a_run_is_kept_in_its_folder(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    runs.run(tmp_path / "run", schedule__steps=1)
    words = ["eval", "--data", runs.DATA, "--model", str(tmp_path / "run"), "--task", "knn"]
    for limit in ("8", "6"):  # a second one replaces the first
        assert cli.run([*words, "--limit", limit]) == 0
        kept = tmp_path / "run" / "evals" / "eval.json"
        assert f"written to {kept}" in capfd.readouterr().out.replace("\n", "")
        assert json.loads(kept.read_text())["knn"]["train_samples"] == int(limit)
