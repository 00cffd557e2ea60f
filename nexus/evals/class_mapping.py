"""From the classes of another test set to those that were learned."""

import csv
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from nexus.errors import DataError, nearest

_WNID = re.compile(r"n\d{8}")


def read_mapping(file: str | Path) -> dict[str, str | None]:
    """Their class name → ours, or None for a class that has no counterpart.

    JSON holds one object, `{"their name": "our name", "another": null}`; CSV two columns, theirs and ours,
    without a header. Raises `DataError`.
    """
    path = Path(file).expanduser()
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the mapping {path}: {error}") from None
    if path.suffix.lower() != ".json":
        rows = [[cell.strip() for cell in row] for row in csv.reader(text.splitlines()) if any(row)]
        return {row[0]: (row[1] or None) if len(row) > 1 else None for row in rows}
    try:
        table = json.loads(text)
    except ValueError as error:
        raise DataError(f"the mapping {path} is not valid JSON: {error}") from None
    plain = isinstance(table, dict) and all(
        value is None or isinstance(value, str | int) for value in table.values()
    )
    if not plain:
        raise DataError(f'the mapping {path} should hold one object such as {{"their class": "our class"}}')
    return {name: None if ours is None else str(ours) for name, ours in table.items()}


def match_classes(
    theirs: Sequence[str], ours: Sequence[str], mapping: Mapping[str, str | None] | None = None
) -> list[int | None]:
    """For each of their classes the number of ours, None where there is no counterpart.

    With a `mapping`, what it does not name has none. Otherwise names count as equal that differ in case,
    `_`, `-` and spaces only, or by what follows a WordNet id; and where ours are WordNet ids, theirs may be
    numbers 0, 1, ... in that order, as in ImageNet-V2. `DataError` where nothing matches, or the mapping
    names a class that we do not have.
    """
    index = {_plain(name): i for i, name in reversed(list(enumerate(ours)))}
    if mapping is not None:
        wanted = [mapping.get(name) for name in theirs]
        wrong = next((name for name in wanted if name is not None and _plain(name) not in index), None)
        if wrong is not None:
            guess = nearest(wrong, ours)
            hint = f"; did you mean {guess!r}?" if guess else f"; there are {_some(ours)}"
            raise DataError(f"the mapping names the class {wrong!r}, which was not learned{hint}")
        found = [None if name is None else index[_plain(name)] for name in wanted]
    elif all(name.isdecimal() for name in theirs) and all(_WNID.match(name) for name in ours):
        sorted_ours = sorted(range(len(ours)), key=lambda i: ours[i])
        numbers = [int(name) for name in theirs]
        found = [sorted_ours[n] if n < len(ours) else None for n in numbers]
    else:
        found = [index.get(_plain(name)) for name in theirs]
    if all(match is None for match in found):
        raise DataError(
            f"none of the classes {_some(theirs)} was learned ({_some(ours)}); give a mapping of names, "
            "robustness.mapping=FILE.json"
        )
    return found


def _plain(name: str) -> str:
    wnid = _WNID.match(name)
    return wnid[0] if wnid else re.sub(r"[\s_-]+", " ", name).strip().casefold()


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5:,} more" if len(names) > 5 else "")
