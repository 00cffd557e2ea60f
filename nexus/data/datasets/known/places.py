"""Places205 and Places365, by the lists that come with them.

::

    ROOT/trainvalsplit_places205/{train,val}_places205.csv      "a/abbey/gsun_....jpg 0", images in
    ROOT/data/vision/torralba/deeplearning/images256/           (or images256/, or ROOT)

    ROOT/places365_train_standard.txt, places365_val.txt        "/a/airfield/00000001.jpg 0", images in
    ROOT/data_256/ and val_256/                                 (or data_large/ and val_large/, also with
                                                                _standard behind data_...)

The lists may also lie in ROOT, `filelist_places365-standard/`, `meta/` or `places365_standard/`. Places365
with class folders in `train/` and `val/` is an ordinary folder.
"""

from dataclasses import dataclass
from pathlib import Path

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

_LISTS_IN = ("", "trainvalsplit_places205", "filelist_places365-standard", "meta", "places365_standard")


@dataclass(frozen=True)
class _Layout:
    """The files of one benchmark: a list for each split, and where its images may lie."""

    name: str
    lists: dict[str, str]
    images: dict[str, tuple[str, ...]]


_DATA = ("data_256_standard", "data_256", "data_large_standard", "data_large", "train")
_OLD = ("data/vision/torralba/deeplearning/images256", "images256", "")
_LAYOUTS = (
    _Layout(
        "Places205",
        {"train": "train_places205.csv", "val": "val_places205.csv"},
        {"train": _OLD, "val": _OLD},
    ),
    _Layout(
        "Places365",
        {"train": "places365_train_standard.txt", "val": "places365_val.txt"},
        {"train": _DATA, "val": ("val_256", "val_large", "val")},
    ),
)


def places_name(path: Path) -> str | None:
    """Which of the two lies here, if one."""
    found = _layout(path)
    return None if found is None else found[0].name


def places_source(address: Address) -> Source:
    """The splits that have a list."""
    address.only()
    found = _layout(address.path)
    assert found is not None, "recognised before"
    layout, lists = found
    splits = tuple(lists)

    def open_it(split: str | None, limits: ImageLimits) -> ImageDataset:
        if split is not None:
            name = match_split(split, splits, f"{layout.name} in {address.path}")
            return _open(address.path, layout, name, lists, limits)
        parts = [_open(address.path, layout, name, lists, limits) for name in splits]
        return parts[0] if len(parts) == 1 else JoinedDataset(parts, splits)

    return Source(address.text, open_it, lambda: splits)


def _layout(path: Path) -> tuple[_Layout, dict[str, Path]] | None:
    for layout in _LAYOUTS:
        places = {split: [path / f / name for f in _LISTS_IN] for split, name in layout.lists.items()}
        lists = {split: next((p for p in files if p.is_file()), None) for split, files in places.items()}
        there = {split: file for split, file in lists.items() if file is not None}
        if there:
            return layout, there
    return None


def _open(
    root: Path, layout: _Layout, split: str, lists: dict[str, Path], limits: ImageLimits
) -> ImageDataset:
    rows = _rows(lists[split])
    names = [name.lstrip("/") for name, _ in rows]
    folders = [root / name for name in layout.images[split]]
    folder = next((f for f in folders if (f / names[0]).is_file()), None)
    if folder is None:
        wanted = " or ".join(f"{f.relative_to(root)}/" if f != root else "the folder itself" for f in folders)
        raise DataError(
            f"{lists[split]} begins with {names[0]}, which is not below {wanted} in {root}; unpack the images"
        )
    labels = np.array([label for _, label in rows], dtype=np.int64)
    what = describe(f"{layout.name} {split} in {root}", len(names), labels)
    dataset = FileDataset(folder, names, what, limits, labels, _classes(root, lists, int(labels.max()) + 1))
    return checked(dataset, layout.name, split)


def _rows(file: Path) -> list[tuple[str, int]]:
    """Pairs of path and class; a line that is none is an error with its number."""
    rows = []
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {file}: {error}") from None
    for number, line in enumerate(lines, 1):
        name, _, label = line.strip().rpartition(" ")
        if not line.strip():
            continue
        if not name or not label.isdecimal():
            raise DataError(f"{file}, line {number}: {line!r} is no path and class, such as a/abbey/1.jpg 0")
        rows.append((name, int(label)))
    if not rows:
        raise DataError(f"{file} is empty; unpack the lists again")
    return rows


def _classes(root: Path, lists: dict[str, Path], count: int) -> tuple[str, ...]:
    """The names of the classes: from `categories_places365.txt`, or the folders of the training images."""
    files = [root / folder / "categories_places365.txt" for folder in _LISTS_IN]
    rows = next((_rows(file) for file in files if file.is_file()), [])
    if not rows and "train" in lists:
        rows = [(name.rpartition("/")[0], label) for name, label in _rows(lists["train"])]
    names = {label: name.strip("/") for name, label in rows}
    return tuple(names.get(i, str(i)) for i in range(max(count, len(names))))
