"""The documents against the code: what they name exists, what they tell people to type is understood."""

import ast
import importlib
import importlib.util
import inspect
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from PIL import Image

from nexus.cli.commands import app
from nexus.config import fields
from nexus.evals.registry import TASKS, task_named
from nexus.training import TrainConfig
from nexus.training.auto import automatic
from nexus.training.choices import DataFacts

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [
        *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "benchmarks/README.md")),
        *(ROOT / "docs").rglob("*.md"),
    ]
)
SETTINGS = set(fields(TrainConfig))
TASK_SETTINGS = {key for name in TASKS for key in fields(task_named(name).config, f"{name}.")}
SECTIONS = {key.partition(".")[0] for key in SETTINGS if "." in key}

HYPOTHETICAL = {
    *("nexus/losses/gram.py", "tests/losses/test_gram.py"),
    *("nexus/data/datasets/birds.py", "nexus/evals/counting.py", "nexus/train/"),
}
"""Files that the documents tell people to make, or explain why they do not exist."""

ENDINGS = r"py|md|yaml|toml|safetensors|json|jsonl|txt|csv|html|parquet|npy"


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


every_page = pytest.mark.parametrize("page", PAGES, ids=page_id)


def blocks(page: Path, language: str) -> list[str]:
    """Fenced blocks of a language; "" for those without one."""
    found = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), flags=re.M | re.S)
    return [body for name, body in found if name == language]


def prose_code(page: Path) -> list[str]:
    """What stands in single backticks, outside fenced blocks."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    return re.findall(r"`([^`\n]+)`", text)


# -- paths ----------------------------------------------------------------------------------------------


def paths_in(page: Path) -> Iterator[tuple[str, Path]]:
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        yield target, page.parent / target
    for code in prose_code(page):
        for path in re.findall(r"(?<![\w./])(?:nexus|tests|docs|benchmarks)/[\w./-]*\w(?:/|\b)", code):
            yield path, ROOT / path


@every_page
def test_paths_exist(page: Path) -> None:
    missing = [name for name, path in paths_in(page) if name not in HYPOTHETICAL and not path.exists()]
    assert not missing


def test_hypothetical_files_do_not_exist() -> None:
    assert not [name for name in HYPOTHETICAL if (ROOT / name).exists()]


def tree_of_the_readme() -> set[str]:
    """Paths of the files in the README's map."""
    (tree,) = (block for block in blocks(ROOT / "README.md", "") if block.startswith("nexus/\n"))
    folders: list[tuple[int, str]] = []
    files = set()
    for line in filter(str.strip, tree.splitlines()):
        indent, name = len(line) - len(line.lstrip()), line.split()[0]
        folders = [folder for folder in folders if folder[0] < indent]
        path = "".join(folder for _, folder in folders) + name
        if name.endswith("/"):
            folders.append((indent, name))
        else:
            files.add(path)
    return files


def test_the_map_in_the_readme_is_complete() -> None:
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "nexus").rglob("*.py")}
    wanted = {path for path in modules if not path.endswith("/__init__.py")} | {"nexus/__init__.py"}
    shown = tree_of_the_readme()
    assert shown - modules == set(), "in the map of the README, but not there"
    assert wanted - shown == set(), "not in the map of the README: give each a phrase"


# -- names and settings ---------------------------------------------------------------------------------


def resolves(dotted: str) -> bool:
    """Whether `nexus.a.b` is a module, or something in one."""
    parts = dotted.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            value = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for name in parts[cut:]:
            if not hasattr(value, name):
                return False
            value = getattr(value, name)
        return True
    return False


@every_page
def test_dotted_names_resolve(page: Path) -> None:
    names = {name for code in prose_code(page) for name in re.findall(r"\bnexus(?:\.[A-Za-z_]\w*)+", code)}
    assert not [name for name in sorted(names) if not resolves(name)]


@every_page
def test_settings_exist(page: Path) -> None:
    wrong = []
    for code in prose_code(page):
        for key in re.findall(r"(?<![\w./-])[a-z_]+(?:\.[a-z_0-9]+)+(?![\w(/*])", code):
            if key.partition(".")[0] not in SECTIONS or re.search(rf"\.({ENDINGS})$", key):
                continue
            if key not in SETTINGS and not any(known.startswith(f"{key}.") for known in SETTINGS):
                wrong.append(key)
    assert not wrong


def test_training_md_lists_the_automatic_choices() -> None:
    _, choices = automatic({}, DataFacts(images=1000, short_side=96, labelled=True))
    rows = (ROOT / "docs/training.md").read_text().partition("## Reading the numbers")[0]
    assert set(re.findall(r"^\| `([\w.]+)` \|", rows, flags=re.M)) == {choice.key for choice in choices}


def test_fidelity_has_every_row_once() -> None:
    text = (ROOT / "docs/fidelity.md").read_text()
    rows = re.findall(r"^\| (\d+) \|(.*)$", text, flags=re.M)
    assert [int(number) for number, _ in rows] == list(range(1, 35))
    assert all(len(re.split(r"(?<!\\)\|", rest)) == 6 for _, rest in rows)


def test_configuration_md_is_up_to_date() -> None:
    script = ROOT / "docs/generate_configuration.py"
    spec = importlib.util.spec_from_file_location("generate_configuration", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (ROOT / "docs/configuration.md").read_text() == module.render(), (
        "run python docs/generate_configuration.py"
    )


def test_every_setting_has_a_sentence() -> None:
    assert not [key for key, sentence in fields(TrainConfig).items() if not sentence.strip().endswith(".")]


# -- commands -------------------------------------------------------------------------------------------


def commands_in(page: Path) -> set[str]:
    """Command lines in blocks and in prose; those with a placeholder verb are no commands."""
    lines = [line.strip() for block in blocks(page, "") for line in block.splitlines()]
    found = {line for line in lines if line.startswith(("nexus ", "make ", "python "))}
    return found | {code for code in prose_code(page) if code.startswith(("nexus ", "make ", "python "))}


def verbs() -> dict[str, Any]:
    """The commands of `nexus` by name."""
    return typer.main.get_command(app).commands  # type: ignore[attr-defined]


def parse(words: list[str]) -> None:
    """Let a command read its words, without doing anything; overrides must be settings."""
    command, words = verbs()[words[0]], words[1:]
    if hasattr(command, "commands"):
        command, words = command.commands[words[0]], words[1:]
    with command.make_context(command.name, list(words)) as context:
        overrides = context.params.get("overrides") or []
        known = TASK_SETTINGS if command.name == "eval" else SETTINGS
        assert all(text.partition("=")[0] in known for text in overrides), overrides


def is_bare_verb(words: list[str]) -> bool:
    """`nexus train` in prose names the verb; it is not a whole command."""
    return len(words) == 1


@every_page
def test_commands_are_understood(page: Path) -> None:
    for line in sorted(commands_in(page)):
        words = shlex.split(line)
        if words[0] == "nexus":
            assert words[1] in verbs(), line
            if not is_bare_verb(words[1:]) and words[1:] != ["eval", "--task", "counting"]:
                parse(words[1:])
        elif words[0] == "make":
            assert re.search(rf"^{re.escape(words[1])}:", (ROOT / "Makefile").read_text(), flags=re.M), line
        elif words[1] == "-m":
            assert importlib.util.find_spec(words[2]) is not None, line
        else:
            assert (ROOT / words[1]).is_file(), line


def test_a_wrong_option_would_be_noticed() -> None:
    with pytest.raises(Exception, match="no-such-option"):
        parse(["train", "--no-such-option", "1"])
    with pytest.raises(AssertionError):
        parse(["train", "--data", "x", "--out", "y", "optim.learning_rate=1"])


# -- Python ---------------------------------------------------------------------------------------------


@every_page
def test_python_blocks_call_what_exists(page: Path) -> None:
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("nexus"):
                assert all(resolves(f"{node.module}.{alias.name}") for alias in node.names)
            if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("nexus."):
                check_call(node)


def check_call(node: ast.Call) -> None:
    """The keywords of a call of `nexus.x(...)` are those of its signature."""
    name = ast.unparse(node.func)
    assert resolves(name), name
    function = getattr(importlib.import_module("nexus"), name.removeprefix("nexus."))
    keywords = {word.arg: None for word in node.keywords if word.arg}
    inspect.signature(function).bind(*[None] * len(node.args), **keywords)


def test_the_loop_of_the_readme_runs(tmp_path: Path) -> None:
    (loop,) = (b for b in blocks(ROOT / "README.md", "python") if "update_teacher" in b)
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(2):
            pixels = rng.integers(0, 255, (40, 44, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    smaller = {
        "224": "28",
        "98": "14",
        "batch_size=64": "batch_size=4",
        "vit_small_patch14": "vit_tiny_patch14",
        "out_dim=4096": "depth=1, out_dim=64",
        "total_epochs=100": "total_epochs=2",
        '"FOLDER"': repr(str(tmp_path)),  # last: its path may hold any of the numbers above
    }
    for old, new in smaller.items():
        assert old in loop
        loop = loop.replace(old, new)
    scope: dict = {}
    exec(compile(loop, "README.md", "exec"), scope)
    assert torch.isfinite(scope["loss"])
