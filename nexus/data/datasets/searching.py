"""What lies below a folder: searched through symbolic links, each real folder once."""

import os
import time
from collections import Counter
from collections.abc import Callable, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from nexus.data.batch import Fault
from nexus.data.datasets.names import extension
from nexus.data.images import file_fault
from nexus.errors import DataError, ImageError


@dataclass
class Listing:
    """What lies below a folder. Names are relative to it, sorted; hidden entries are left out."""

    began: float
    """When the search began, in seconds since 1970."""
    images: list[str] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    """Number of files per ending that was not looked for."""
    faults: list[Fault] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    """The paths of all folders that were searched."""


def list_files(root: Path, endings: Set[str]) -> Listing:
    """The files with one of `endings` in `root` and the folders below it.

    Linked folders come after all real ones, so that a folder keeps its own name where a link leads to
    it as well. A link to a folder above itself is a fault.
    """
    found = Listing(time.time())
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
        found.folders.append(path)
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    _sort_entry(entry, relative, found, folders, links, endings)
        except OSError as error:
            found.faults.append(Fault(relative or ".", f"folder {file_fault(error)}"))
        links.sort()
    found.images.sort()
    return found


def _sort_entry(
    entry: os.DirEntry[str],
    folder: str,
    found: Listing,
    folders: list[str],
    links: list[str],
    endings: Set[str],
) -> None:
    """Put one directory entry where it belongs."""
    if entry.name.startswith("."):
        return
    name = f"{folder}/{entry.name}" if folder else entry.name
    try:
        if entry.is_dir():
            (links if entry.is_symlink() else folders).append(name)
        elif extension(name) not in endings:
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


def is_folder(path: Path) -> bool:
    """Whether a path is a folder that can be asked about."""
    try:
        return path.is_dir()
    except OSError:
        return False


class FrameFiles(NamedTuple):
    """Files that hold several images each, and the ones of them that cannot be read."""

    root: Path
    names: list[str]
    frames: list[int]
    faults: tuple[Fault, ...]


def files_of_frames(
    path: Path, endings: Set[str], count: Callable[[Path, str], int], kind: str
) -> FrameFiles:
    """A file, or all below a folder, with `count(path, name)` images each; a `DataError` if none is readable.

    `count` raises `ImageError`, which makes its file a fault.
    """
    if path.is_dir():
        found = list_files(path, endings)
        root, names, faults = path, found.images, list(found.faults)
    else:
        root, names, faults = path.parent, [path.name], []
    kept: list[str] = []
    frames: list[int] = []
    for name in names:
        try:
            frames.append(count(root / name, name))
            kept.append(name)
        except ImageError as error:
            faults.append(Fault(error.name, error.reason))
    if not kept:
        reason = f": {faults[0].name}: {faults[0].reason}" if faults else ""
        raise DataError(f"no readable {kind} in {path}{reason}")
    return FrameFiles(root, kept, frames, tuple(faults))
