"""iNaturalist 2017 to 2021, by the JSON files of the competitions.

::

    ROOT/train2018.json, val2018.json, train_val2018/Plantae/7477/*.jpg
    ROOT/train.json, val.json (train_mini.json), train/00000_Animalia_.../*.jpg          2021

`file_name` of an image is its path below ROOT, `category_id` of its annotation its class. Classes are
numbered in the order of their ids, over both files.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nexus.data.datasets.address import Address
from nexus.data.datasets.base import ImageDataset
from nexus.data.datasets.folder import FileDataset, describe
from nexus.data.datasets.joined import JoinedDataset
from nexus.data.datasets.known.sizes import checked
from nexus.data.datasets.source import Source
from nexus.data.datasets.splits import match_split
from nexus.data.images import ImageLimits
from nexus.errors import DataError

_YEARS = (2017, 2018, 2019)


def inaturalist_year(path: Path) -> int | None:
    """The year whose files lie here."""
    return next(iter(_files(path)), None)


def inaturalist_source(address: Address) -> Source:
    """The splits that have a JSON file; `train_mini` of 2021 only by name, for `train` holds it."""
    address.only()
    year, files = next(iter(_files(address.path).items()))
    splits = tuple(files)

    def open_it(split: str | None, limits: ImageLimits) -> ImageDataset:
        if split is not None:
            name = match_split(split, splits, f"iNaturalist {year} in {address.path}")
            return _open(address.path, year, name, files, limits)
        parts = [_open(address.path, year, name, files, limits) for name in ("train", "val") if name in files]
        return parts[0] if len(parts) == 1 else JoinedDataset(parts, splits[: len(parts)])

    return Source(address.text, open_it, lambda: splits)


def _files(path: Path) -> dict[int, dict[str, Path]]:
    """The year and its files by split; empty where there are none."""
    for year in _YEARS:
        found = {name: path / f"{name}{year}.json" for name in ("train", "val")}
        found = {name: file for name, file in found.items() if file.is_file()}
        if found:
            return {year: found}
    names = {name: path / f"{name}.json" for name in ("train", "val", "train_mini")}
    names = {name: file for name, file in names.items() if file.is_file() and _has_classes(path / name)}
    return {2021: names} if names else {}


def _has_classes(folder: Path) -> bool:
    """Whether class folders of 2021 lie here: `00000_Animalia_Annelida_...`."""
    try:
        return any(re.match(r"\d{5}_", path.name) for path in folder.iterdir())
    except OSError:
        return False


def _open(root: Path, year: int, split: str, files: Mapping[str, Path], limits: ImageLimits) -> ImageDataset:
    table = _read(files[split])
    categories = {int(c["id"]): str(c.get("name", c["id"])) for c in table.get("categories", ())}
    if not categories:  # some years list the classes only in one of the files
        others = (_read(file) for file in files.values())
        ids = {int(a["category_id"]) for other in others for a in other.get("annotations", ())}
        categories = {number: str(number) for number in ids}
    names = [str(image["file_name"]) for image in table["images"]]
    category = {a["image_id"]: int(a["category_id"]) for a in table.get("annotations", ())}
    index = {number: i for i, number in enumerate(sorted(categories))}
    strange = sorted({number for number in category.values() if number not in index})
    if strange:
        raise DataError(f"{files[split]}: category_id {strange[0]} is not among its categories")
    numbers = [index.get(category.get(image["id"], -1), -1) for image in table["images"]]
    labels = np.array(numbers, dtype=np.int64)
    classes = tuple(_unique([categories[number] for number in sorted(categories)]))
    benchmark = f"iNaturalist {year}"
    what = describe(f"{benchmark} {split} in {root}", len(names), labels)
    return checked(FileDataset(root, names, what, limits, labels, classes), benchmark, split)


def _unique(names: list[str]) -> list[str]:
    """The names, numbered where one name stands for several classes."""
    return names if len(set(names)) == len(names) else [f"{i}_{name}" for i, name in enumerate(names)]


def _read(file: Path) -> dict[str, Any]:
    try:
        table = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {file}: {error}; unpack it again") from None
    if not isinstance(table, dict) or not table.get("images"):
        raise DataError(f"{file} has no `images`; it should be the list of an iNaturalist competition")
    return table
