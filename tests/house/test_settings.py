"""Every setting has a sentence and a reader; every recipe is a run."""

import ast
import importlib
import re
from typing import Any

import pytest
import yaml

from nexus.config import Config, build, dump_yaml, fields
from nexus.data.datasets import open_dataset
from nexus.training import TrainConfig
from nexus.training.launch import check
from nexus.training.recipes import read_recipe, recipe_names
from tests.house.sources import PACKAGE, modules, tree


def config_classes() -> list[type[Config]]:
    """Every subclass of `Config` in nexus."""
    found = []
    for name, path in modules().items():
        classes = [node.name for node in tree(path).body if isinstance(node, ast.ClassDef)]
        if classes:
            module = importlib.import_module(name)
            found += [getattr(module, item) for item in classes]
    return [
        item for item in found if isinstance(item, type) and issubclass(item, Config) and item is not Config
    ]


CLASSES = config_classes()


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_setting_has_a_sentence(kind: type[Config]) -> None:
    poor = [name for name, field in kind.model_fields.items() if not _is_sentence(field.description)]
    assert not poor, "write one sentence with a full stop under the field"
    assert kind.__doc__


def _is_sentence(text: str | None) -> bool:
    return bool(text) and text.rstrip().endswith((".", "!")) and (text[0].isupper() or not text[0].isalpha())


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_class_attribute_is_a_field(kind: type[Config]) -> None:
    """A value without a type hint would be no setting, and nobody would notice."""
    source = tree(modules()[kind.__module__])
    body = next(n for n in source.body if isinstance(n, ast.ClassDef) and n.name == kind.__name__).body
    plain = [
        target.id
        for n in body
        if isinstance(n, ast.Assign)
        for target in n.targets
        if isinstance(target, ast.Name)
    ]
    assert set(plain) <= {"model_config"}


def reads() -> dict[str, int]:
    """How often each name is read in nexus, as an attribute or as a string, docstrings aside."""
    counts: dict[str, int] = {}
    for path in modules().values():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                counts[node.attr] = counts.get(node.attr, 0) + 1
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
                counts[node.value] = counts.get(node.value, 0) + 1
    return counts


READS = reads()


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_setting_is_read(kind: type[Config]) -> None:
    assert [name for name in kind.model_fields if name not in READS] == []


def test_every_section_and_setting_has_a_legible_key() -> None:
    keys = fields(TrainConfig)
    assert len(keys) > 60
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*", key) for key in keys)


def test_the_defaults_survive_yaml() -> None:
    config = TrainConfig()
    assert build(TrainConfig, yaml.safe_load(dump_yaml(config))) == config


# -- recipes --------------------------------------------------------------------------------------

OFFICIAL = ("vitl16-in1k", "vitl14-in22k")


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_a_configuration(name: str) -> None:
    settings = read_recipe(name)
    assert isinstance(build(TrainConfig, settings), TrainConfig)


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_passes_the_checks_before_a_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Crops divide by the patch, the architecture exists, the batch splits. Memory is the machine's."""
    monkeypatch.setattr("nexus.training.launch.refuse_what_cannot_fit", lambda config, device: None)
    settings: dict[str, Any] = read_recipe(name)
    settings["compute"] = {**settings.get("compute", {}), "device": "cpu"}
    check(build(TrainConfig, settings), open_dataset("synthetic:n=5000,size=32"))


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_begins_with_what_it_is_and_its_command(name: str) -> None:
    header = re.match(r"(#.*\n)+", (PACKAGE / "recipes" / f"{name}.yaml").read_text(encoding="utf-8"))
    assert header
    assert re.search(r"^#   .*\b(nexus \w+|make \w+)", header[0], re.MULTILINE)


def test_the_official_recipes_are_there() -> None:
    assert set(OFFICIAL) <= set(recipe_names())
