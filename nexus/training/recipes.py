"""Recipes: short YAML documents that hold only what differs, in `nexus/recipes` or anywhere."""

from importlib import resources
from pathlib import Path

from nexus.config import Tree, merge, read_yaml
from nexus.errors import ConfigError, unknown


def recipe_names() -> list[str]:
    """The recipes that come with nexus."""
    folder = resources.files("nexus") / "recipes"
    return sorted(p.name.removesuffix(".yaml") for p in folder.iterdir() if p.name.endswith(".yaml"))


def read_recipe(name: str) -> Tree:
    """Settings of a recipe by name or path; `extends: NAME` in it is followed."""
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        if name not in recipe_names():
            raise ConfigError(unknown("recipe", name, recipe_names()) + ". A path ends in .yaml.")
        path = Path(str(resources.files("nexus") / "recipes" / f"{name}.yaml"))
    settings = read_yaml(path)
    parent = settings.pop("extends", None)
    return merge(read_recipe(parent), settings) if parent else settings
