"""What a user asks for, as one tree of settings: recipe, configuration file, flags, overrides."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nexus.config import Tree, from_dotted, merge, parse_overrides, read_yaml
from nexus.data.crops.config import with_preset
from nexus.training.choices import drop_auto
from nexus.training.recipes import read_recipe


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The words of `nexus train` and `nexus plan`; see `nexus.training.launch.train`."""

    data: str | Path | Sequence[str | Path] | None = None
    model: str | None = None
    recipe: str | None = None
    config: str | Path | None = None
    init: str | Path | None = None
    devices: int | str | None = None
    overrides: Mapping[str, Any] | Sequence[str] = ()

    def given(self) -> Tree:
        """Flags and overrides alone."""
        data = self.data
        source = ",".join(map(str, data)) if isinstance(data, list | tuple) else data
        flags = {
            "data.source": source,
            "model.arch": self.model,
            "model.init": self.init,
            "compute.devices": self.devices,
        }
        given = from_dotted({key: str(value) for key, value in flags.items() if value is not None})
        return merge(given, with_preset(_dotted(self.overrides)))

    def settings(self) -> Tree:
        """Recipe, then configuration file, then what was given; without what says `auto`."""
        recipe = read_recipe(self.recipe) if self.recipe else {}
        file = read_yaml(_config_file(self.config)) if self.config else {}
        base = merge(with_preset(recipe), with_preset(file))
        given = self.given()
        return drop_auto(merge(_without_shape(base, given), given))


def _dotted(overrides: Mapping[str, Any] | Sequence[str]) -> Tree:
    if isinstance(overrides, Mapping):
        return from_dotted({k: str(v) if isinstance(v, Path) else v for k, v in overrides.items()})
    return parse_overrides([overrides] if isinstance(overrides, str) else overrides)


def _config_file(path: str | Path) -> Path:
    """The file, or the one in a run folder."""
    return Path(path) / "config.yaml" if Path(path).is_dir() else Path(path)


def _without_shape(base: Tree, given: Tree) -> Tree:
    """A recipe's sizes belong to its architecture: they go when the user names another one."""
    arch = given.get("model", {}).get("arch", "auto") if isinstance(given.get("model"), dict) else "auto"
    model = base.get("model")
    if arch == "auto" or not isinstance(model, dict) or model.get("arch") == arch:
        return base
    return {**base, "model": {key: value for key, value in model.items() if key not in _SHAPE}}


_SHAPE = ("depth", "embed_dim", "num_heads", "num_register_tokens", "ffn_layer")
