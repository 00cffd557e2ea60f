"""What lay below a large folder, remembered from one start to the next.

Adding, removing or renaming an entry sets the modification time of its folder, so the memory holds as long as
every folder that was searched still has its time: one `stat` per folder instead of one look at every file. A
folder that had changed less than two seconds before the search may change again unnoticed (clocks of file
systems are coarse), so such a memory is not kept. Broken links, and folders that could not be read, are asked
again.
"""

import json
import os
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nexus.data.batch import Fault
from nexus.data.datasets.cache import cache_folder, digest, write_at_once
from nexus.data.datasets.labels import Classes, Labels
from nexus.data.datasets.names import Names

WORTHWHILE = 5_000
"""Folders with fewer images are searched each time: that takes no time."""

_VERSION = 1
_SETTLED = 2 * 10**9  # nanoseconds


@dataclass(frozen=True)
class Contents:
    """The images of a folder, their labels, the number of other files, and what could not be read."""

    names: Names
    labels: Labels | None
    classes: Classes
    others: int
    faults: tuple[Fault, ...]


def remember(root: Path, split: str | None, contents: Contents, folders: Sequence[str], began: float) -> None:
    """Keep what a search that `began` then found in `folders`. A cache that cannot be written is no error."""
    if len(contents.names) < WORTHWHILE:
        return
    times = [_changed(folder) for folder in folders]
    if any(changed is None or changed > began * 1e9 - _SETTLED for changed in times):
        return
    faulty = [os.path.join(root, split or "", fault.name) for fault in contents.faults]
    text, ends = contents.names.table
    about = {
        "classes": contents.classes,
        "others": contents.others,
        "faults": [(fault.name, fault.reason) for fault in contents.faults],
        "states": [(path, *_state(path)) for path in faulty],
    }
    places, stops = Names(folders).table
    arrays: dict[str, Any] = {
        "names": np.frombuffer(text, dtype=np.uint8),
        "ends": ends,
        "labels": np.zeros(0, dtype=np.int64) if contents.labels is None else contents.labels,
        "folders": np.frombuffer(places, dtype=np.uint8),
        "stops": stops,
        "times": np.array(times, dtype=np.int64),
        "about": np.frombuffer(json.dumps(about).encode(), dtype=np.uint8),
    }
    with suppress(OSError):
        write_at_once(_place(root, split), lambda file: np.savez(file, **arrays))


def recall(root: Path, split: str | None) -> Contents | None:
    """What lies below a folder, if it was remembered and nothing has changed since."""
    try:
        with open(_place(root, split), "rb") as file, np.load(file, allow_pickle=False) as kept:
            folders = Names.from_table(kept["folders"].tobytes(), kept["stops"])
            times = kept["times"]
            about = json.loads(kept["about"].tobytes())
            if any(_changed(folder) != changed for folder, changed in zip(folders, times, strict=True)):
                return None
            if any((exists, readable) != _state(path) for path, exists, readable in about["states"]):
                return None
            names = Names.from_table(kept["names"].tobytes(), kept["ends"])
            labels = kept["labels"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):  # none, or a damaged one
        return None
    faults = tuple(Fault(*fault) for fault in about["faults"])
    known = labels if len(labels) else None
    return Contents(names, known, tuple(about["classes"]), about["others"], faults)


def _place(root: Path, split: str | None) -> Path:
    return cache_folder() / "folders" / f"{digest(_VERSION, root.resolve(), root, split)}.npz"


def _changed(folder: str) -> int | None:
    try:
        return os.stat(folder).st_mtime_ns
    except OSError:
        return None


def _state(path: str) -> tuple[bool, bool]:
    return os.path.exists(path), os.access(path, os.R_OK | os.X_OK)
