"""Help: complete, aligned, within 80 columns; and the commands that end well."""

from pathlib import Path

import pytest

from nexus import __version__, cli

VERBS = ("demo", "train", "doctor", "embed", "eval", "export", "inspect", "card")


def shown(words: list[str], capfd: pytest.CaptureFixture) -> str:
    assert cli.run(words) == 0
    said = capfd.readouterr()
    assert said.err == ""
    return said.out


@pytest.mark.parametrize("words", [[], ["--help"]])
def test_help_names_every_verb(words: list[str], capfd: pytest.CaptureFixture) -> None:
    text = shown(words, capfd)
    assert all(f"\n  {verb} " in text for verb in VERBS)
    assert "..." not in text.partition("Commands:")[2]


@pytest.mark.parametrize("verb", VERBS)
def test_each_option_takes_one_line_of_80_columns(verb: str, capfd: pytest.CaptureFixture) -> None:
    lines = shown([verb, "--help"], capfd).splitlines()
    assert max(len(line) for line in lines) <= 80
    assert not any(line.startswith("   ") for line in lines), "nothing wraps"
    options = [line.strip() for line in lines[3:] if line.startswith("  ")]
    assert options
    starts = {len(option) - len(option.partition("  ")[2].strip()) for option in options}
    assert len(starts) == 1, "one column of names, one column of sentences"


def test_the_version(capfd: pytest.CaptureFixture) -> None:
    assert shown(["--version"], capfd) == f"{__version__}\n"


def test_train_embed_eval_inspect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    """The whole path of a newcomer, two steps long."""
    monkeypatch.chdir(tmp_path)
    data = "synthetic:n=16,size=32,classes=2"
    extra = ["--precision", "fp32", "checkpoint.every=2", "online_eval.every=0"]
    assert cli.run(["train", "--recipe", "smoke", "--data", data, "--out", "a", "--steps", "2", *extra]) == 0
    said = capfd.readouterr()
    for sentence in (
        "run   a",
        "vit_tiny_patch8 from random weights: ",
        "8 images; 2 global crops of 32 px and 2 local crops of 16 px each",
        "steps 2, 1.0 passes over 16 images",
        "lr    0.004 × sqrt(8/1024) = 0.00035 after 0 steps of warm-up",
    ):
        assert sentence in said.err
    assert "nexus eval --data LABELLED --model a" in said.out
    assert cli.run(["train", "--config", "a", "--out", "b", "--data", data, "optim.lr=1e-3"]) == 0
    assert cli.run(["embed", "--data", data, "--model", "a", "--out", "x.npy", "--size", "32"]) == 0
    assert cli.run(["eval", "--data", data, "--model", "b", "--task", "knn", "--out", "."]) == 0
    assert cli.run(["inspect", "b"]) == 0
    said = capfd.readouterr()
    assert "16 images, 64 dimensions" in said.out
    assert "run folder" in said.out
    assert (tmp_path / "eval.json").exists()


def test_brackets_and_spaces_in_names_are_no_markup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "my [/red] run"
    words = [
        "train",
        "--recipe",
        "smoke",
        "--data",
        "synthetic:n=8,size=32",
        "--out",
        str(out),
        "--steps",
        "1",
    ]
    assert cli.run([*words, "online_eval.every=0"]) == 0
    said = capfd.readouterr().out
    assert f"nexus eval --data LABELLED --model '{out}'" in said
    assert f"nexus.load('{out}')" in said
