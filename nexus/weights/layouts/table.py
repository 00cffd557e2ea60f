"""A table of key names that is read in both directions.

A row says which tensors of somebody else's make one of ours: a single name renames; several are stacked
along the first axis, which is how q, k and v become one matrix. ::

    "norm1.weight":    ("layernorm_before.weight",)
    "attn.qkv.weight": ("query.weight", "key.weight", "value.weight")
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Rows = Mapping[str, tuple[str, ...]]

_OFFICIAL_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")


def affine(official: str, *foreign: str) -> dict[str, tuple[str, ...]]:
    """The two rows, weight and bias, of a linear layer, a convolution or a norm; without `foreign`, as is."""
    return {
        f"{official}.{leaf}": tuple(f"{name}.{leaf}" for name in foreign or (official,))
        for leaf in ("weight", "bias")
    }


def same(*names: str) -> dict[str, tuple[str, ...]]:
    """Rows of tensors that are called alike on both sides."""
    return {name: (name,) for name in names}


@dataclass(frozen=True)
class KeyTable:
    """The key names of one ecosystem beside the official ones."""

    outer: Rows
    """Tensors outside of the blocks."""
    inner: Rows
    """Tensors of a block, without the prefix that counts it."""
    block: str = "blocks.{}."
    """That prefix, with `{}` for the number."""

    def to_official(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors under official names; what the table does not know, or not whole, keeps its own."""
        result: dict[str, Tensor] = {}
        stacks: dict[str, dict[int, str]] = {}
        owners, pattern = self._owners(), self._pattern()
        for key in tensors:
            found = pattern.fullmatch(key)
            owner = owners.get((bool(found), found[2] if found else key))
            if owner is not None:
                name, part = owner
                stacks.setdefault(f"blocks.{found[1]}.{name}" if found else name, {})[part] = key
        for official, parts in stacks.items():
            ordered = {parts[part]: tensors[parts[part]] for part in sorted(parts)}
            result |= _stacked(official, ordered, len(self._names(official)))
        used = {key for parts in stacks.values() for key in parts.values()}
        for key in tensors.keys() - used:
            result[key if key not in result else f"{key} (a second one)"] = tensors[key]
        return result

    def from_official(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors under the ecosystem's names; every official name has its row."""
        result: dict[str, Tensor] = {}
        for key, tensor in tensors.items():
            found = _OFFICIAL_BLOCK.fullmatch(key)
            prefix, names = self.block.format(found[1]) if found else "", self._names(key)
            for name, part in zip(names, tensor.chunk(len(names)), strict=True):
                result[prefix + name] = part.contiguous()
        return result

    def known(self, keys: Iterable[str]) -> int:
        """How many of these keys the table has a row for."""
        owners, pattern = self._owners(), self._pattern()
        found = ((pattern.fullmatch(key), key) for key in keys)
        return sum((bool(match), match[2] if match else key) in owners for match, key in found)

    def _pattern(self) -> re.Pattern[str]:
        before, after = map(re.escape, self.block.split("{}"))
        return re.compile(rf"{before}(\d+){after}(.+)")

    def _names(self, official: str) -> tuple[str, ...]:
        found = _OFFICIAL_BLOCK.fullmatch(official)
        return self.inner[found[2]] if found else self.outer[official]

    def _owners(self) -> dict[tuple[bool, str], tuple[str, int]]:
        """By (inside a block, foreign name): the official name, and which part of it that is."""
        return {
            (inside, name): (official, part)
            for inside, rows in ((False, self.outer), (True, self.inner))
            for official, names in rows.items()
            for part, name in enumerate(names)
        }


def _stacked(official: str, parts: dict[str, Tensor], wanted: int) -> dict[str, Tensor]:
    """One tensor out of its parts; the parts themselves where they do not make one."""
    tensors = list(parts.values())
    if len(tensors) != wanted:
        return parts
    if wanted == 1:
        return {official: tensors[0]}
    alike = len({(tensor.shape, tensor.dtype, tensor.layout, tensor.device) for tensor in tensors}) == 1
    return {official: torch.cat(tensors)} if alike and tensors[0].ndim else parts
