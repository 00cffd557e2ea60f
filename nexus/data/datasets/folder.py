"""Images in a folder and everything below it, and any other list of files."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from nexus.data.batch import Fault
from nexus.data.datasets.base import ImageDataset
from nexus.data.datasets.labels import Classes, Labels, folder_labels
from nexus.data.datasets.names import Names, extension, is_image_name
from nexus.data.datasets.splits import canonical, in_order, match_split
from nexus.data.images import ImageLimits, Stream, file_fault, open_file, read_file
from nexus.errors import DataError


class FileDataset(ImageDataset):
    """Image files named by their paths under `root`; absolute names are taken as they are."""

    def __init__(
        self,
        root: Path,
        names: Sequence[str],
        description: str,
        limits: ImageLimits,
        labels: Labels | None = None,
        classes: Classes = (),
        faults: tuple[Fault, ...] = (),
    ) -> None:
        super().__init__(description, limits, labels, classes, faults)
        self.root = str(root)
        self.names = Names(names)

    def __len__(self) -> int:
        return len(self.names)

    def name(self, i: int) -> str:
        """The path under the root, with `/` between its parts."""
        return self.names[i]

    def path(self, i: int) -> str:
        """The path of image `i` in the file system."""
        return os.path.join(self.root, self.names[i])

    def read(self, i: int) -> bytes:
        """The content of the file, or `ImageError`."""
        return read_file(self.path(i), self.name(i))

    def stream(self, i: int) -> Stream:
        """The open file."""
        return open_file(self.path(i), self.name(i))


@dataclass
class Listing:
    """What lies below a folder. Names are relative to it, sorted; hidden entries are left out."""

    images: list[str] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    """Number of files per ending that is not an image's."""
    faults: list[Fault] = field(default_factory=list)


def list_images(root: Path) -> Listing:
    """Search `root` and the folders below it, through symbolic links, each real folder once.

    Linked folders come after all real ones, so that a folder keeps its own name where a link leads to
    it as well. A link to a folder above itself is a fault.
    """
    found = Listing()
    seen: set[str] = set()
    folders, links = [""], list[str]()
    while folders or links:
        relative = folders.pop() if folders else links.pop(0)
        path = os.path.join(root, relative)
        real = os.path.realpath(path)
        if real in seen:
            if os.path.islink(path) and _is_inside(os.path.abspath(path), real):
                found.faults.append(Fault(relative, "symbolic link loop"))
            continue
        seen.add(real)
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    _sort_entry(entry, relative, found, folders, links)
        except OSError as error:
            found.faults.append(Fault(relative or ".", f"folder {file_fault(error)}"))
        links.sort()
    found.images.sort()
    return found


def _sort_entry(
    entry: os.DirEntry[str], folder: str, found: Listing, folders: list[str], links: list[str]
) -> None:
    """Put one directory entry where it belongs."""
    if entry.name.startswith("."):
        return
    name = f"{folder}/{entry.name}" if folder else entry.name
    try:
        if entry.is_dir():
            (links if entry.is_symlink() else folders).append(name)
        elif not is_image_name(name):
            found.others[extension(name) or "no extension"] += 1
        elif entry.is_file():
            found.images.append(name)
        else:
            broken = "broken symbolic link" if entry.is_symlink() else "not a regular file"
            found.faults.append(Fault(name, broken))
    except OSError as error:
        found.faults.append(Fault(name, file_fault(error)))


def _is_inside(path: str, folder: str) -> bool:
    """Whether `path`, its own last link aside, really lies below `folder`."""
    real = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
    return real.startswith(folder.rstrip(os.sep) + os.sep)


def folder_splits(root: Path) -> tuple[str, ...]:
    """The sub-folders that are splits: `train` beside a `val`, `validation` or `test`."""
    names = [entry.name for entry in os.scandir(root) if _is_folder(entry)]
    splits = [name for name in names if canonical(name) in ("train", "val", "test")]
    kinds = {canonical(name) for name in splits}
    return in_order(splits) if "train" in kinds and len(kinds) > 1 else ()


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def open_folder(root: Path, split: str | None, limits: ImageLimits) -> FileDataset:
    """All images below `root`, or those of one split folder; labels from class folders."""
    splits = folder_splits(root)
    if split is not None:
        split = match_split(split, splits, f"folder {root}")
    found = list_images(root / split if split else root)
    names = [f"{split}/{name}" for name in found.images] if split else found.images
    if not names:
        raise DataError(_nothing(root / split if split else root, found))
    labels, classes = _split_labels(root, splits, names) if splits else folder_labels(names)
    what = f"folder {root}/" + (f", split {split}" if split else "")
    return FileDataset(
        root=root,
        names=names,
        description=describe(what, len(names), labels, sum(found.others.values())),
        limits=limits,
        labels=labels,
        classes=classes,
        faults=tuple(found.faults),
    )


def _split_labels(root: Path, splits: tuple[str, ...], names: list[str]) -> tuple[Labels | None, Classes]:
    """Labels from the class folders inside split folders, numbered alike in every split."""
    inside = [name.partition("/") for name in names]
    if not all(first in splits and "/" in rest for first, _, rest in inside):
        return None, ()
    folders = {
        entry.name
        for split in splits
        for entry in os.scandir(root / split)
        if _is_folder(entry) and not entry.name.startswith(".")
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
