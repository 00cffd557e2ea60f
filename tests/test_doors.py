"""The four functions of the package: called wrongly, one error that says what helps; their several words."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import nexus
from nexus.errors import ConfigError, DataError, NexusError, RunError
from nexus.training.recipes import recipe_names

DATA = "synthetic:n=12,size=32,classes=2"
VIT = "vit_tiny_patch8"


@pytest.fixture(scope="module")
def backbone() -> nn.Module:
    return nexus.load(VIT)


@pytest.mark.parametrize(
    ("door", "arguments", "kind", "message"),
    [
        ("train", {}, ConfigError, "no run folder given"),
        ("train", {"data": DATA, "out": "x", "overrides": "optim.lrr=1"}, ConfigError, "mean 'optim.lr'"),
        ("embed", {"data": [], "model": VIT}, DataError, "an empty list of data sources"),
        ("embed", {"data": DATA, "model": nn.Linear(1, 1)}, ConfigError, "a Linear is no backbone"),
        ("evaluate", {"data": DATA, "model": VIT, "tasks": "knn,lin"}, ConfigError, "unknown task 'lin'"),
        ("evaluate", {"data": DATA, "model": VIT, "tasks": ()}, ConfigError, "tasks is empty"),
        ("evaluate", {"data": DATA, "model": VIT, "limit": -1}, ConfigError, "limit=-1 leaves no image"),
    ],
)
def test_one_error_says_what_helps(
    door: str,
    arguments: dict[str, Any],
    kind: type[NexusError],
    message: str,
    tmp_path: Path,
    monkeypatch: Any,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(kind) as raised:
        getattr(nexus, door)(**arguments)
    assert message in str(raised.value)
    assert list(tmp_path.iterdir()) == []


WRONG_TYPES = """
import nexus, torch
from nexus.models.ssl import MultiCropAugmentation
for call in (
    lambda: nexus.train("synthetic:n=8", "x", overrides={3: 1}),
    lambda: nexus.train("synthetic:n=8", "x", recipe={"optim": 1}),
    lambda: nexus.embed(None, "vit_tiny_patch8"),
    lambda: nexus.embed(3, "vit_tiny_patch8"),
    lambda: nexus.embed("synthetic:n=8", None),
    lambda: nexus.load(None),
    lambda: nexus.load(["runs/a"]),
    lambda: nexus.embed("synthetic:n=8", "vit_tiny_patch8", resize="32"),
    lambda: MultiCropAugmentation()(torch.zeros(3, 8, 8)),
):
    try:
        call()
    except nexus.errors.NexusError as error:
        print(error)
"""


def test_wrong_types_too(tmp_path: Path) -> None:
    """In a process of its own: in this one every call is type-checked."""
    program = [sys.executable, "-c", WRONG_TYPES]
    said = subprocess.run(program, capture_output=True, text=True, timeout=200, cwd=tmp_path)
    assert said.stdout.splitlines() == [
        "3 is not the name of a setting; write it as in 'optim.lr'",
        "unknown recipe \"{'optim': 1}\". Known: " + ", ".join(recipe_names()) + ". A path ends in .yaml.",
        "data=None is no data source; name a folder, a list, an archive or several",
        "data=3 is no data source; name a folder, a list, an archive or several",
        "model=None is no model; give a run folder, a weight file, a name or a module",
        "None is no model; give a run folder, a weight file or a name",
        "['runs/a'] is no model; give a run folder, a weight file or a name",
        "resize='32' must be a whole number, at least 1",
        "crops are cut out of PIL images, not of a Tensor; pass a data set without a transform to tensors, "
        "and this as its transform",
    ]


def test_a_folder_that_cannot_be_made_is_known_before_the_work(tmp_path: Path, backbone: nn.Module) -> None:
    (tmp_path / "file").write_text("x")
    seen: list[int] = []
    for door in (nexus.embed, nexus.evaluate):
        with pytest.raises(RunError, match=r"cannot be made: .*; choose another --out"):
            door(
                DATA, backbone, out=tmp_path / "file" / "deep" / "x.npy", progress=lambda *at: seen.append(1)
            )
    assert seen == []


def test_tasks_may_be_written_as_on_the_command_line(backbone: nn.Module) -> None:
    one, other = (
        nexus.evaluate(DATA, backbone, tasks, baseline=False, size=16) for tasks in ("knn", ["knn"])
    )
    assert one["knn"] == other["knn"]


def test_training_takes_several_sources_like_the_other_doors(tmp_path: Path) -> None:
    sources = [DATA, f"{DATA},seed=1"]
    overrides = {"schedule.steps": 1, "online_eval.every": 0}
    result = nexus.train(sources, tmp_path / "run", recipe="smoke", overrides=overrides)
    assert result.finished
    assert "24 images" in (tmp_path / "run" / "log.txt").read_text()
    assert len(nexus.embed(sources, tmp_path / "run")) == 24
