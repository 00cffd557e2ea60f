"""ImageNet-1k as people have it on disk.

::

    ROOT/train/n01440764/*.JPEG                       one folder for each class, named by its WordNet id
    ROOT/val/n01440764/*.JPEG                         the same, or
    ROOT/val/ILSVRC2012_val_00000001.JPEG             flat, with a file that says what they show
    ROOT/ILSVRC/Data/CLS-LOC/{train,val}/             the same two below the folders of the Kaggle download

Classes are numbered by WordNet id in alphabetical order: the customary numbers 0..999. The test images have
no published labels and are left out.
"""

import os
import re
from pathlib import Path

import numpy as np

from nexus.data.datasets.address import Address
from nexus.data.datasets.base import ImageDataset
from nexus.data.datasets.folder import FileDataset, describe
from nexus.data.datasets.joined import JoinedDataset
from nexus.data.datasets.known.imagenet_labels import VALIDATION, validation_wnids
from nexus.data.datasets.known.sizes import checked
from nexus.data.datasets.labels import Labels
from nexus.data.datasets.names import EXTENSIONS
from nexus.data.datasets.searching import is_folder, list_files
from nexus.data.datasets.source import Source
from nexus.data.datasets.splits import match_split
from nexus.data.images import ImageLimits
from nexus.errors import DataError

WNID = re.compile(r"n\d{8}")
CLASSES = 1000
_BELOW = ("", "Data/CLS-LOC", "ILSVRC/Data/CLS-LOC", "ILSVRC2012", "imagenet")


def is_imagenet(path: Path) -> bool:
    """Whether ImageNet-1k lies here: flat validation images, or a thousand class folders for training.

    A smaller set in the same layout, all in class folders, is left to be an ordinary folder.
    """
    root = imagenet_root(path)
    return root is not None and (_is_flat(root / "val") or len(class_folders(root / "train")) >= CLASSES)


def imagenet_root(path: Path) -> Path | None:
    """The folder of `train` and `val`."""
    places = [path / below for below in _BELOW]
    return next((p for p in places if class_folders(p / "train", enough=1) or _is_flat(p / "val")), None)


def imagenet_source(address: Address) -> Source:
    """Training and validation images."""
    address.only()
    root = imagenet_root(address.path)
    assert root is not None, "recognised before"
    splits = tuple(name for name in ("train", "val") if is_folder(root / name))

    def open_it(split: str | None, limits: ImageLimits) -> ImageDataset:
        if split is not None:
            return _open(root, match_split(split, splits, f"ImageNet-1k in {root}"), limits)
        parts = [_open(root, name, limits) for name in splits]
        return parts[0] if len(parts) == 1 else JoinedDataset(parts, splits)

    return Source(address.text, open_it, lambda: splits)


def class_folders(folder: Path, enough: int | None = None) -> list[str]:
    """The sub-folders that are named like WordNet ids, sorted; the first `enough` of them that are met."""
    found: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if WNID.fullmatch(entry.name) and entry.is_dir():
                    found.append(entry.name)
                    if len(found) == enough:
                        break
    except OSError:
        return []
    return sorted(found)


def _is_flat(folder: Path) -> bool:
    """Whether validation images lie in a folder as they come out of the archive; ten entries say it."""
    try:
        with os.scandir(folder) as entries:
            first = [entry.name for _, entry in zip(range(10), entries, strict=False)]
    except OSError:
        return False
    return any(VALIDATION.match(name) for name in first)


def _open(root: Path, split: str, limits: ImageLimits) -> ImageDataset:
    found = list_files(root / split, EXTENSIONS)
    names = found.images
    if not names:
        archives = found.others[".tar"]
        cure = f"unpack the {archives:,} archives in it" if archives else "unpack the images there"
        raise DataError(f"{root / split} holds no images; {cure}, or name another folder")
    learned = class_folders(root / "train")
    flat = split == "val" and all("/" not in name for name in names)
    wnids = validation_wnids(root, names) if flat else [name.partition("/")[0] for name in names]
    known = learned or sorted({wnid for wnid in wnids if wnid is not None})
    labels, dropped = _numbered(wnids, known)
    if dropped:  # a part of the classes was unpacked for training: the rest cannot be recognised
        names = [name for name, label in zip(names, labels, strict=True) if label >= 0]
        labels = labels[labels >= 0]
    what = describe(f"ImageNet-1k {split} in {root}", len(names), labels, sum(found.others.values()))
    if dropped:
        what += f", {dropped:,} of classes without training images left out"
    faults = tuple(found.faults)
    dataset = FileDataset(root / split, names, what, limits, labels, tuple(known), faults)
    return checked(dataset, "ImageNet-1k", split) if len(known) >= CLASSES else dataset


def _numbered(wnids: list[str | None] | list[str], known: list[str]) -> tuple[Labels, int]:
    """Labels, and how many images have a class that is not among `known`."""
    index = {wnid: i for i, wnid in enumerate(known)}
    labels = np.array([index.get(wnid or "", -1) for wnid in wnids], dtype=np.int64)
    return labels, int((labels < 0).sum())
