"""Imports go downward only; siblings are strangers. The table is the architecture."""

import ast
from pathlib import Path

import pytest

from tests.house.sources import modules, tree

LAYERS = [
    {
        "errors",
        "figures",
        "shapes",
        "config",
        "schedules",
        "distributed",
        "devices",
        "log",
        "checkpoint",
        "records",
        "drawing",
    },
    {"data", "models.vision", "losses", "health"},
    {"models.ssl"},
    {"weights", "features", "embedding"},
    {"evals", "exporting", "viz"},
    {"training"},
    {"demo", "checkup"},
    {"cli", "__main__"},
]
STRANGERS = {1, 4}
"""Layers whose groups may not import each other; within the others that is allowed."""

DOORS = {"nexus", "nexus.models"}
"""Packages that only re-export, lazily or not at all."""

RANK = {f"nexus.{group}": rank for rank, groups in enumerate(LAYERS) for group in groups}


def group_of(module: str) -> str:
    """The entry of the table that a module belongs to; every module has exactly one."""
    return next(group for group in RANK if module == group or module.startswith(f"{group}."))


def imports(source: ast.Module) -> list[str]:
    """Everything that a module imports from nexus, also inside functions, but not for type checkers only."""
    for_checkers = {
        id(node)
        for branch in ast.walk(source)
        if isinstance(branch, ast.If) and "TYPE_CHECKING" in ast.dump(branch.test)
        for node in ast.walk(branch)
    }
    found = []
    for node in ast.walk(source):
        if id(node) in for_checkers:
            continue
        if isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            module = node.module or ""
            named = [f"{module}.{alias.name}" for alias in node.names]
            # `from nexus import checkpoint` imports a module, `from nexus.config import Config` a name of it.
            found += [name if name in modules() else module for name in named]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
    return [name for name in found if name == "nexus" or name.startswith("nexus.")]


def refused(module: str, target: str) -> str | None:
    """Why `module` may not import `target`, if it may not."""
    ours, theirs = group_of(module), group_of(target)
    if RANK[theirs] > RANK[ours]:
        return f"{module} (layer {RANK[ours]}) imports {target} (layer {RANK[theirs]})"
    if RANK[theirs] == RANK[ours] and ours != theirs and RANK[ours] in STRANGERS:
        return f"{module} imports its sibling {target}"
    return None


def test_every_module_has_a_place() -> None:
    homeless = [m for m in modules() if m not in DOORS and not any(_under(m, group) for group in RANK)]
    assert not homeless


def _under(module: str, group: str) -> bool:
    return module == group or module.startswith(f"{group}.")


@pytest.mark.parametrize("module", sorted(set(modules()) - DOORS))
def test_imports_go_downward(module: str) -> None:
    targets = [name for name in imports(tree(modules()[module])) if name not in DOORS]
    assert [reason for target in targets if (reason := refused(module, target))] == []


def test_nobody_inside_uses_the_front_door() -> None:
    """`from nexus import train` would import every layer; the version is all that it may be used for."""
    for module, path in modules().items():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ImportFrom) and node.module == "nexus":
                names = {alias.name for alias in node.names}
                assert {n for n in names if f"nexus.{n}" not in modules()} <= {"__version__"}, module


def test_modules_do_not_import_in_circles() -> None:
    """At import time; what functions import later cannot hang."""
    edges = {m: {t for t in _at_import(tree(path)) if t != m} for m, path in modules().items()}
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, " -> ".join((*above, module))
        if module not in done:
            for target in edges.get(module, ()):
                visit(target, (*above, module))
            done.add(module)

    for module in edges:
        visit(module, ())


def _at_import(source: ast.Module) -> list[str]:
    top = [node for node in source.body if isinstance(node, ast.Import | ast.ImportFrom)]
    return imports(ast.Module(body=list(top), type_ignores=[]))


@pytest.mark.parametrize(
    ("module", "source", "wrong"),
    [
        ("nexus.losses.dino", "from nexus.data import order", True),
        ("nexus.losses.dino", "import nexus.training.loop", True),
        ("nexus.losses.dino", "def f():\n    from nexus.features import extract", True),
        ("nexus.losses.dino", "from nexus.losses.numerics import x\nfrom nexus.errors import y", False),
        ("nexus.training.loop", "from nexus.evals.knn import evaluate_knn", False),
        ("nexus.config", "from nexus import checkpoint, cli", True),
        ("nexus.log", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import nexus.cli", False),
    ],
)
def test_the_rule_itself(module: str, source: str, wrong: bool, tmp_path: Path) -> None:
    assert any(refused(module, target) for target in imports(ast.parse(source))) is wrong
