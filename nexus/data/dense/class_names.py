"""The names and colours of classes, from the files that people put beside label maps.

| file                                   | content                                                       |
|----------------------------------------|---------------------------------------------------------------|
| `classes.json`                         | `{"0": "sky", ...}`, `["sky", ...]`, or `{"sky": 0, ...}`     |
| `classes.txt`, `labels.txt`            | a name a line, the first has number 0                         |
| `objectInfo150.txt`                    | ADE20K's table: the column `Idx`, counted from 1, and `Name`  |
| `label_colors.txt`, `class_dict.csv`, `palette.txt` | `red green blue name`, or `name,red,green,blue` |
"""

import csv
import json
import re
from collections.abc import Mapping
from pathlib import Path

from nexus.errors import DataError

NAMES = ("classes.json", "classes.txt", "labels.txt")
COLOURS = ("label_colors.txt", "class_dict.csv", "palette.txt")
ADE20K = "objectInfo150.txt"

_VOID = {"void", "ignore", "ignored", "unlabeled", "unlabelled", "unknown", "dont care", "don't care"}
_GAP = r"[\s,;]+"
_COLOUR = rf"(?P<r>\d+){_GAP}(?P<g>\d+){_GAP}(?P<b>\d+)"
_COLOUR_FIRST = re.compile(rf"{_COLOUR}(?P<name>{_GAP}.*)?")
_COLOUR_LAST = re.compile(rf"(?P<name>.+?){_GAP}{_COLOUR}")
Palette = dict[tuple[int, int, int], int]


def is_void(name: str) -> bool:
    """Whether a class of that name means that a pixel does not count."""
    return name.strip().lower().replace("_", " ") in _VOID


def names_beside(folder: Path) -> dict[int, str]:
    """The names by stored number, from the first of the files above that is there; empty without one."""
    for file in (folder / name for name in NAMES):
        if file.is_file():
            return _from_json(file) if file.suffix == ".json" else dict(enumerate(_lines(file)))
    return dict(enumerate(palette_names(folder)))


def palette_beside(folder: Path) -> Palette | None:
    """The colours of the classes, where one of the files above says them."""
    file = next((folder / name for name in COLOURS if (folder / name).is_file()), None)
    return None if file is None else read_palette(file)[0]


def palette_names(folder: Path) -> list[str]:
    """The names in a file of colours, in its order."""
    file = next((folder / name for name in COLOURS if (folder / name).is_file()), None)
    return [] if file is None else read_palette(file)[1]


def read_palette(file: Path) -> tuple[Palette, list[str]]:
    """Colour → number of its line, and the names. Raises `DataError` for a line that is none of the forms."""
    palette: Palette = {}
    names: list[str] = []
    for line in _lines(file):
        found = _COLOUR_FIRST.fullmatch(line) or _COLOUR_LAST.fullmatch(line)
        colour = tuple(int(found[channel]) for channel in "rgb") if found else ()
        if not palette and not any(character.isdigit() for character in line):
            continue  # the heading of a CSV
        if found is None or max(colour) > 255:
            raise DataError(
                f"{file}: the line {line!r} is not `red green blue name`, three numbers from 0 to 255"
            )
        red, green, blue = colour
        palette[red, green, blue] = len(names)
        names.append((found["name"] or "").strip(" ,;\t") or str(len(names)))
    if not palette:
        raise DataError(f"{file} has no line with a colour; write `red green blue name`")
    return palette, names


def ade20k_names(file: Path) -> dict[int, str]:
    """The names of ADE20K's 150 classes by stored number, from its own table."""
    with open(file, newline="", encoding="utf-8", errors="replace") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    try:
        return {int(row["Idx"]): row["Name"].split(",")[0].strip() for row in rows}
    except (KeyError, ValueError, TypeError, AttributeError):
        raise DataError(
            f"{file} is not ADE20K's table: the columns Idx and Name are wanted; remove it"
        ) from None


def _from_json(file: Path) -> dict[int, str]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(values, list):
            return {i: str(name) for i, name in enumerate(values)}
        if isinstance(values, Mapping) and all(isinstance(value, int) for value in values.values()):
            return {value: str(key) for key, value in values.items()}
        return {int(key): str(value) for key, value in values.items()}
    except (ValueError, AttributeError):
        raise DataError(
            f'{file} does not name classes; write {{"0": "sky", "1": "road"}} or a list'
        ) from None


def _lines(file: Path) -> list[str]:
    text = file.read_text(encoding="utf-8", errors="replace")
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
