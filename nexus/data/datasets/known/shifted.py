"""ImageNet-V2, -R, -A and -Sketch: test images of other kinds for classes of ImageNet-1k.

They are recognised by the name of their folder and by its class folders: WordNet ids, or in V2 the numbers
0..999. Nothing is special about reading them but the order of V2's classes; their sizes are checked.
"""

import os
import re
from pathlib import Path

import numpy as np

from nexus.data.datasets.address import Address
from nexus.data.datasets.base import ImageDataset
from nexus.data.datasets.folder import FileDataset, open_folder
from nexus.data.datasets.known.imagenet import class_folders
from nexus.data.datasets.known.sizes import checked
from nexus.data.datasets.source import Source, whole
from nexus.data.images import ImageLimits

_NAMES = {
    "ImageNet-V2": re.compile(r"imagenet-?v2", re.IGNORECASE),
    "ImageNet-R": re.compile(r"imagenet-?r(endition)?\b", re.IGNORECASE),
    "ImageNet-A": re.compile(r"imagenet-?a\b", re.IGNORECASE),
    "ImageNet-Sketch": re.compile(r"(imagenet-?)?sketch\b", re.IGNORECASE),
}


def shifted_name(path: Path) -> str | None:
    """Which of the four a folder is, if one."""
    name = next((name for name, pattern in _NAMES.items() if pattern.match(path.name)), None)
    if name == "ImageNet-V2":
        return name if _numbers(path) else None
    return name if name and class_folders(path, enough=1) else None


def shifted_source(address: Address) -> Source:
    """All images of the folder."""
    address.only()
    path = address.path
    name = shifted_name(path)
    assert name is not None, "recognised before"

    def open_it(limits: ImageLimits) -> ImageDataset:
        dataset = open_folder(path, None, limits)
        return checked(_numerical(dataset) if name == "ImageNet-V2" else dataset, name, "test")

    return whole(address.text, open_it)


def _numbers(path: Path) -> bool:
    """Whether the sub-folders are numbers."""
    try:
        with os.scandir(path) as entries:
            folders = [entry.name for _, entry in zip(range(50), entries, strict=False) if entry.is_dir()]
    except OSError:
        return False
    return bool(folders) and all(name.isdecimal() for name in folders)


def _numerical(dataset: FileDataset) -> FileDataset:
    """Class folders `0`, `1`, `10`, `2` in the order of their numbers."""
    assert dataset.labels is not None
    order = sorted(range(len(dataset.classes)), key=lambda i: int(dataset.classes[i]))
    dataset.labels = np.argsort(order)[dataset.labels].astype(np.int64)
    dataset.classes = tuple(dataset.classes[i] for i in order)
    return dataset
