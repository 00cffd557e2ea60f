"""Choices made for the user: what they depend on, and each with the reason that is printed."""

import math
from dataclasses import dataclass
from typing import Any

from nexus.config import Tree, from_dotted, merge
from nexus.data.channels import ChannelFacts
from nexus.training.config import TrainConfig


@dataclass(frozen=True)
class DataFacts:
    """What the choices depend on: how many images, how large (median shorter side, pixels), any labels."""

    images: int
    short_side: int
    labelled: bool = False
    one_size: bool = False
    """All images that were looked at are squares of `short_side`."""
    grey: bool = False
    """None of the images that were looked at has colours."""
    channels: ChannelFacts | None = None
    """Their native channels, where it is these that are trained on."""

    @property
    def resident_bytes(self) -> float:
        """Memory that all images take as bytes, if they have one size; none holds deeper ones."""
        if self.channels and self.channels.deep:
            return math.inf
        return self.images * self.short_side**2 * (self.channels.chans if self.channels else 3)


@dataclass(frozen=True)
class Choice:
    """One setting chosen for the user, and the reason that is printed."""

    key: str
    value: Any
    reason: str

    def __str__(self) -> str:
        return f"{self.key}={self.value}  ({self.reason})"


def drop_auto(tree: Tree) -> Tree:
    """The tree without leaves that say `auto`."""
    kept: Tree = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            kept[key] = drop_auto(value)
        elif value != "auto":
            kept[key] = value
    return kept


class Chooser:
    """The settings so far: what the user gave, then each choice in turn."""

    def __init__(self, given: Tree) -> None:
        self.tree = given
        self.choices: list[Choice] = []
        self._defaults = TrainConfig().model_dump()

    def choose(self, key: str, value: Any, reason: str) -> None:
        """Set `key` unless the user did."""
        if lookup(self.tree, key) is None:
            self.tree = merge(self.tree, from_dotted({key: value}))
            self.choices.append(Choice(key, value, reason))

    def __getitem__(self, key: str) -> Any:
        value = lookup(self.tree, key)
        return lookup(self._defaults, key) if value is None else value


def lookup(tree: Tree, dotted: str) -> Any:
    """The value at a dotted key; `None` where there is none."""
    value: Any = tree
    for part in dotted.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def round_to(value: float, multiple: int) -> int:
    """The multiple of `multiple` nearest to `value`, at least one."""
    return max(1, round(value / multiple)) * multiple
