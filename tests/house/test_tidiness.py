"""Small rules about files, that reviewers should not have to remember."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.sources import PACKAGE, ROOT, modules, texts, tree

LONGEST_FILE = 450
LONGEST_FUNCTION = 90
VAGUE = {"utils", "util", "helpers", "helper", "misc", "common", "tools"}


def test_files_are_short() -> None:
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in modules().items()}
    assert {name: n for name, n in lengths.items() if n > LONGEST_FILE} == {}


def test_functions_are_short() -> None:
    long = {
        f"{name}.{node.name}": node.end_lineno - node.lineno
        for name, path in modules().items()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno > LONGEST_FUNCTION
    }
    assert long == {}


def test_files_have_names_that_say_something() -> None:
    assert [path for path in PACKAGE.rglob("*.py") if path.stem in VAGUE] == []


def test_every_module_says_what_it_is() -> None:
    silent = [
        name
        for name, path in modules().items()
        if path.read_text(encoding="utf-8").strip() and not ast.get_docstring(tree(path))
    ]
    assert silent == []


def test_only_the_command_line_prints() -> None:
    prints = [
        f"{name}:{node.lineno}"
        for name, path in modules().items()
        if not name.startswith("nexus.cli")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert prints == []


def test_modules_with_tensor_types_keep_their_annotations() -> None:
    """`from __future__ import annotations` would hide the shapes from the run-time checker."""
    hidden = [
        name
        for name, path in modules().items()
        for node in tree(path).body
        if isinstance(node, ast.ImportFrom) and node.module == "__future__"
    ]
    assert hidden == []


def test_what_is_left_to_do_has_a_name() -> None:
    word = "TO" + "DO"
    nameless = re.compile(rf"\b({word}|FIX{'ME'}|XX{'X'})\b(?!\([a-z]+, \d{{4}}-\d\d-\d\d\): \S)")
    assert [name for name, text in texts().items() if name.endswith(".py") and nameless.search(text)] == []


# In pieces, so that this file does not match itself.
HOSTS = ("pypi" + ".org", "python" + "hosted", "conda" + ".io", "anaconda" + ".org", "download." + "pytorch")
PATHS = ("/" + "work/", "/" + "root/", "/" + "home/", "/" + "Users/", "/" + "mnt/", "/" + "tmp/")
HARMLESS_PATHS = {"/" + "tmp/"}
"""Places that every machine has: allowed in documents, not in code."""


def test_no_registry_is_named() -> None:
    found = {name: host for name, text in texts().items() for host in HOSTS if host in text}
    assert found == {}


def test_no_path_of_this_machine_is_named() -> None:
    found = {
        name: place
        for name, text in texts().items()
        for place in PATHS
        if re.search(rf"(?<![\w.~}}$]){re.escape(place)}\w", text)
        and not (place in HARMLESS_PATHS and name.endswith((".md", "run")))
    }
    assert found == {}


# -- the words of make, CI and documents ---------------------------------------------------------


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def documents() -> list[Path]:
    found = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [path for path in found if path.is_file()]


def test_make_knows_its_words() -> None:
    phony = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert phony
    assert set(phony[1].split()) <= make_targets()
    assert {"demo", "test", "lint"} <= make_targets()


def test_ci_runs_words_of_make() -> None:
    script = ROOT / ".ci" / "run"
    if not script.is_file():
        pytest.skip("no .ci/run in this checkout")
    used = set(re.findall(r"\bmake ([a-z][\w-]*)", script.read_text(encoding="utf-8")))
    assert used <= make_targets()


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_commands_in_documents_exist(path: Path) -> None:
    """`make WORD` is a target; `nexus VERB` is a verb. (Files named are checked by test_docs.)"""
    blocks = "\n".join(
        re.findall(r"```(?:bash|sh|console)?\n(.*?)```", path.read_text(encoding="utf-8"), re.S)
    )
    assert set(re.findall(r"^\$? ?make ([a-z][\w-]*)", blocks, re.MULTILINE)) <= make_targets()
    verbs = set(re.findall(r"^\$? ?(?:\.venv/bin/)?nexus ([a-z]+)", blocks, re.MULTILINE))
    known = {
        "card",
        "compare",
        "convert",
        "data",
        "demo",
        "doctor",
        "embed",
        "eval",
        "export",
        "inspect",
        "plan",
        "train",
    }
    assert verbs <= known


def test_what_the_package_ships_is_declared() -> None:
    """Recipes, embedded data and the typing marker travel with an installation."""
    import tomllib

    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = settings["tool"]["setuptools"]["package-data"]["nexus"]
    shipped = {file for pattern in patterns for file in PACKAGE.glob(pattern)}
    others = {p for p in PACKAGE.rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")}
    assert {p.relative_to(PACKAGE).as_posix() for p in others - shipped} == set()


def test_every_benchmark_can_be_imported() -> None:
    """Nobody runs them daily, so a name that moved would be noticed late."""
    names = [path.stem for path in (ROOT / "benchmarks").glob("*.py")]
    code = "import importlib\n" + "".join(f"importlib.import_module('benchmarks.{name}')\n" for name in names)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
