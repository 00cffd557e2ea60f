"""Recipes: short YAML documents that hold only what differs, in `nexus/recipes` or anywhere."""

from importlib import resources
from pathlib import Path

from nexus.config import Tree, merge, read_yaml
from nexus.errors import ConfigError, unknown


def recipe_names() -> list[str]:
    """The recipes that come with nexus."""
    folder = resources.files("nexus") / "recipes"
    return sorted(p.name.removesuffix(".yaml") for p in folder.iterdir() if p.name.endswith(".yaml"))


def read_recipe(name: str | Path) -> Tree:
    """Settings of a recipe by name or path; `extends: NAME` in it is followed.

    A path in `extends` counts from the folder of the file that says so. Raises `ConfigError`.
    """
    settings: Tree = {}
    path: Path | None = _file(str(name), Path())
    read: list[Path] = []
    while path is not None:
        if path.resolve() in read:
            raise ConfigError(f"{path} extends itself, through {len(read)} files; take `extends` out of one")
        read.append(path.resolve())
        own = read_yaml(path)
        parent = own.pop("extends", None)
        settings = merge(own, settings)
        path = _file(str(parent), path.parent) if parent else None
    return settings


def _file(name: str, folder: Path) -> Path:
    """The file of a recipe: its own if it ends in .yaml, else one that comes with nexus."""
    if Path(name).suffix in (".yaml", ".yml"):
        return folder / name
    if name not in recipe_names():
        raise ConfigError(unknown("recipe", name, recipe_names()) + ". A path ends in .yaml.")
    return Path(str(resources.files("nexus") / "recipes" / f"{name}.yaml"))
