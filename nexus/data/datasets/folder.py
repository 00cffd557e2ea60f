"""Images in a folder and everything below it, and any other list of files."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nexus.data.batch import Fault
from nexus.data.datasets.base import ImageDataset
from nexus.data.datasets.foldermemory import Contents, recall, remember
from nexus.data.datasets.labels import Classes, Labels, folder_labels
from nexus.data.datasets.names import EXTENSIONS, Names
from nexus.data.datasets.searching import Listing, is_folder, list_files
from nexus.data.datasets.splits import canonical, in_order, match_split, spellings
from nexus.data.images import ImageLimits, Stream, open_file, read_file
from nexus.errors import DataError


class FileDataset(ImageDataset):
    """Image files named by their paths under `root`; absolute names are taken as they are."""

    def __init__(
        self,
        root: Path,
        names: Sequence[str] | Names,
        description: str,
        limits: ImageLimits,
        labels: Labels | None = None,
        classes: Classes = (),
        faults: tuple[Fault, ...] = (),
    ) -> None:
        super().__init__(description, limits, labels, classes, faults)
        self.root = str(root)
        self.names = names if isinstance(names, Names) else Names(names)

    def __len__(self) -> int:
        return len(self.names)

    def name(self, i: int) -> str:
        """The path under the root, with `/` between its parts."""
        return self.names[i]

    def path(self, i: int) -> str:
        """The path of image `i` in the file system."""
        return os.path.join(self.root, self.names[i])

    def file(self, i: int) -> str | None:
        """As `path`."""
        return self.path(i)

    def read(self, i: int) -> bytes:
        """The content of the file, or `ImageError`."""
        return read_file(self.path(i), self.name(i))

    def stream(self, i: int) -> Stream:
        """The open file."""
        return open_file(self.path(i), self.name(i))


def folder_splits(root: Path) -> tuple[str, ...]:
    """The sub-folders that are splits: `train` beside a `val`, `validation` or `test`.

    They are asked for by name: a folder of millions of files is not searched for them.
    """
    real: dict[tuple[int, int], str] = {}
    for name in spellings(("train", "val", "test")):
        path = root / name
        if is_folder(path):
            status = os.stat(path)
            real.setdefault((status.st_dev, status.st_ino), name)  # `Train` is `train` on some file systems
    splits = list(real.values())
    kinds = {canonical(name) for name in splits}
    return in_order(splits) if "train" in kinds and len(kinds) > 1 else ()


def open_folder(root: Path, split: str | None, limits: ImageLimits) -> FileDataset:
    """All images below `root`, or those of one split folder; labels from class folders."""
    splits = folder_splits(root)
    if split is not None:
        split = match_split(split, splits, f"folder {root}")
    contents = recall(root, split) or _search(root, split, splits)
    what = f"folder {root}/" + (f", split {split}" if split else "")
    return FileDataset(
        root=root,
        names=contents.names,
        description=describe(what, len(contents.names), contents.labels, contents.others),
        limits=limits,
        labels=contents.labels,
        classes=contents.classes,
        faults=contents.faults,
    )


def _search(root: Path, split: str | None, splits: tuple[str, ...]) -> Contents:
    """Search the folder, and remember what is in it."""
    found = list_files(root / split if split else root, EXTENSIONS)
    names = [f"{split}/{name}" for name in found.images] if split else found.images
    if not names:
        raise DataError(_nothing(root / split if split else root, found))
    labels, classes = _split_labels(root, splits, names) if splits else folder_labels(names)
    others = sum(found.others.values())
    contents = Contents(Names(names), labels, classes, others, tuple(found.faults))
    beside = [root, *(root / name for name in splits)]
    remember(root, split, contents, [*found.folders, *map(str, beside)], found.began)
    return contents


def _split_labels(root: Path, splits: tuple[str, ...], names: list[str]) -> tuple[Labels | None, Classes]:
    """Labels from the class folders inside split folders, numbered alike in every split."""
    inside = [name.partition("/") for name in names]
    if not all(first in splits and "/" in rest for first, _, rest in inside):
        return None, ()
    folders = {
        entry.name
        for split in splits
        for entry in os.scandir(root / split)
        if not entry.name.startswith(".") and is_folder(Path(entry.path))
    }
    _, classes = folder_labels([f"{folder}/" for folder in sorted(folders)])
    if not classes:
        return None, ()
    index = {folder: i for i, folder in enumerate(classes)}
    labels = [index[rest.partition("/")[0]] for _, _, rest in inside]
    return np.array(labels, dtype=np.int64), classes


def describe(what: str, images: int, labels: Labels | None, ignored: int = 0) -> str:
    """`"folder imgs/, 12,345 images in 10 classes, 3 other files ignored"`."""
    text = f"{what}, {images:,} image{'s' if images != 1 else ''}"
    if labels is not None:
        count = len(np.unique(labels[labels >= 0]))
        text += f" in {count:,} class{'es' if count != 1 else ''}"
    if ignored:
        text += f", {ignored:,} other file{'s' if ignored != 1 else ''} ignored"
    return text


def _nothing(folder: Path, found: Listing) -> str:
    """Why a folder cannot be used."""
    if found.faults:
        first = found.faults[0]
        return (
            f"no readable image in {folder}: {len(found.faults)} entries cannot be read, "
            f"the first is {first.name} ({first.reason}); check links and permissions"
        )
    if not found.others:
        return f"{folder} is empty; name a folder that holds images, here or in its sub-folders"
    endings = ", ".join(f"{n:,} {ending}" for ending, n in found.others.most_common(6))
    return (
        f"no images in {folder}, but {sum(found.others.values()):,} other files ({endings}); "
        "name the folder of the images, or the archive or list itself"
    )
