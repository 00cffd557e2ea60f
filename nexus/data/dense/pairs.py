"""Images and their truths, brought together by their names.

`a/0001.jpg` belongs to `a/0001.png`. What people append or put in front to tell the two apart does not
count: `0001_mask.png`, `0001_L.png`, `sync_depth_0001.png` with `rgb_0001.jpg`.
"""

import logging
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from nexus.data.datasets.names import EXTENSIONS, extension
from nexus.data.datasets.searching import list_files
from nexus.data.dense.entries import Entry, FileEntry
from nexus.errors import DataError

log = logging.getLogger(__name__)

TRUTH_ENDINGS = EXTENSIONS | {".npy"}

_BEHIND = re.compile(
    r"([_.-](mask|seg|segmentation|label|labels|gt|groundtruth|depth|rgb|color|colour|image|img|leftimg8bit"
    r"|gtfine|gtfine_labelids|gtfine_labeltrainids|labelids|labeltrainids|l))+$",
    re.IGNORECASE,
)
_BEFORE = re.compile(r"^((sync|mask|label|gt|depth|rgb|color|colour|image|img)[_.-])+", re.IGNORECASE)


@dataclass(frozen=True)
class Pair:
    """An image and its truth; `name` is the image's, relative to its source."""

    name: str
    image: Entry
    truth: Entry


def pair_up(
    images: Mapping[str, Entry], truths: Mapping[str, Entry], where: str, what: str
) -> tuple[Pair, ...]:
    """The pairs among entries that are listed by relative path, in the order of the images.

    Images without a truth are left out with a warning, and so are truths without an image. Raises
    `DataError` where nothing fits, or where one image has two truths.
    """
    by_stem = _by_stem(truths, where, what)
    by_core = _by_core(by_stem, truths, where, what)
    pairs, alone = [], []
    for name, image in images.items():
        truth = by_stem.get(_stem(name)) or by_core.get(_core(_stem(name)))
        if truth is None:
            alone.append(name)
        else:
            pairs.append(Pair(name, image, truths[truth]))
    if not pairs:
        raise DataError(
            f"{where}: none of {len(images):,} images has a {what}: there is {_some(images)}, and "
            f"{_some(truths)}; "
            "give both the same name, such as images/0001.jpg and masks/0001.png"
        )
    unused = len(truths) - len({pair.truth.name for pair in pairs})
    if alone:
        log.warning("%s: %d images have no %s and are left out: %s", where, len(alone), what, _some(alone))
    if unused:
        log.warning("%s: %d %ss have no image and are left out", where, unused, what)
    return tuple(pairs)


def files_below(folder: Path, endings: frozenset[str] = EXTENSIONS) -> dict[str, Entry]:
    """The files of a folder and of the folders below it, by relative path, sorted."""
    found = list_files(folder, endings)
    return {name: FileEntry(os.path.join(folder, name)) for name in found.images}


def _by_stem(truths: Mapping[str, Entry], where: str, what: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in truths:
        _no_second(found, _stem(name), name, where, what)
    return found


def _by_core(stems: Mapping[str, str], truths: Mapping[str, Entry], where: str, what: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for stem, name in stems.items():
        _no_second(found, _core(stem), name, where, what)
    return found


def _no_second(found: dict[str, str], key: str, name: str, where: str, what: str) -> None:
    other = found.setdefault(key, name)
    if other != name:
        raise DataError(
            f"{where}: {other} and {name} could both be the {what} of one image; keep one kind of {what} in "
            "the"
            " folder"
        )


def _stem(name: str) -> str:
    return name.removesuffix(name[len(name) - len(extension(name)) :]) if extension(name) else name


def _core(stem: str) -> str:
    """The stem without what only tells images and truths apart; never empty."""
    folder, slash, base = stem.rpartition("/")
    short = _BEHIND.sub("", base) or base
    return folder + slash + (_BEFORE.sub("", short) or short)


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
