"""Names of splits: `val`, `valid`, `validation` and `dev` ask for the same one."""

from collections.abc import Iterable

from nexus.errors import DataError, unknown

_ALIASES = {
    "training": "train",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "testing": "test",
}


def canonical(split: str) -> str:
    """`train`, `val` or `test` for their usual spellings; anything else in lower case."""
    return _ALIASES.get(split.lower(), split.lower())


def spellings(kinds: Iterable[str]) -> list[str]:
    """The usual spellings of some canonical splits: `train`, `Train`, `TRAIN`, `training`, ..."""
    kinds = tuple(kinds)
    words = [*kinds, *(alias for alias, kind in _ALIASES.items() if kind in kinds)]
    return [form for word in words for form in (word, word.capitalize(), word.upper())]


def match_split(split: str, known: Iterable[str], source: str) -> str:
    """The entry of `known` that `split` means, or a `DataError` that lists them."""
    known = tuple(known)
    if not known:
        raise DataError(f"{source} has no splits, so there is no split {split!r}; leave it out")
    if split in known:
        return split
    same = [name for name in known if canonical(name) == canonical(split)]
    if not same:
        raise DataError(f"{source}: {unknown('split', split, known)}")
    return same[0]


def in_order(splits: Iterable[str]) -> tuple[str, ...]:
    """The different splits: train, val, test, then the others by name."""
    first = {"train": 0, "val": 1, "test": 2}
    return tuple(sorted(set(splits), key=lambda name: (first.get(canonical(name), 3), name)))
