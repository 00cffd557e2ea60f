"""Tar archives and packs whose samples have an image `KEY.jpg` and a truth `KEY.seg.png` or `KEY.depth.png`.

The split is a word of the archive's name: `camvid-train.tar`, `train-000.tar`. What the numbers of a
depth map mean is looked for in `meta.json` and `README.md` beside the archives.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from nexus.data.datasets.names import extension, is_hidden
from nexus.data.datasets.pack import is_tar_name
from nexus.data.datasets.shards import read_shard
from nexus.data.dense import class_names
from nexus.data.dense.depth_maps import KITTI, MILLIMETRES
from nexus.data.dense.entries import Entry, TarEntry
from nexus.data.dense.folders import apart
from nexus.data.dense.layout import DEPTH, Kind, Layout
from nexus.data.dense.pairs import TRUTH_ENDINGS, Pair, pair_up

_SPLIT = re.compile(
    r"(?:^|[-_.])(train|training|val|valid|validation|dev|test|testing)(?=[-_.])", re.IGNORECASE
)
_MILLIMETRES = re.compile(r"uint16[^\n]{0,20}?\bmm\b|\bin mm\b|\bmm,|millimet(?:re|er)s", re.IGNORECASE)
_KITTI = re.compile(r"met(?:re|er)s?\s*[*×x]\s*256|/\s*256\b|KITTI depth format", re.IGNORECASE)


def find_archives(root: Path, kind: Kind) -> Layout | None:
    """One archive, or the archives directly in a folder, where they hold pairs."""
    tars = [root] if root.is_file() and is_tar_name(root.name) else _tars(root)
    if not tars:
        return None
    groups: dict[str, list[Path]] = {}
    for tar in tars:
        word = _SPLIT.search(tar.name)
        groups.setdefault(word[1] if word else "", []).append(tar)
    splits = {}
    for split, members in groups.items():
        pairs = _pairs(members, kind)
        if pairs:
            splits[split] = pairs
    if not splits:
        return None
    folder = root if root.is_dir() else root.parent
    if kind == DEPTH:
        scale, reason = scale_beside(folder)
        return Layout("archives", str(root), splits, scale=scale, scale_reason=reason)
    names = class_names.names_beside(folder)
    return Layout("archives", str(root), splits, names, class_names.palette_beside(folder))


def scale_beside(folder: Path) -> tuple[float | None, str]:
    """Stored numbers per metre as `meta.json` or `README.md` says them, and where that was read."""
    for file in (folder / "meta.json", folder / "README.md", folder / "README.txt"):
        if not file.is_file():
            continue
        text = file.read_text(encoding="utf-8", errors="replace")
        found = [
            value for pattern, value in ((_KITTI, KITTI), (_MILLIMETRES, MILLIMETRES)) if pattern.search(text)
        ]
        if len(found) == 1:
            unit = "metres × 256" if found[0] == KITTI else "millimetres"
            return found[0], f"{file.name} says {unit}"
    return None, ""


def _tars(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    return sorted(path for path in root.iterdir() if is_tar_name(path.name) and not path.name.startswith("."))


def _pairs(tars: Iterable[Path], kind: Kind) -> tuple[Pair, ...]:
    files: dict[str, Entry] = {}
    tars = list(tars)
    for tar in tars:
        shard = read_shard(tar)
        prefix = f"{tar.name}/" if len(tars) > 1 else ""
        for member in shard.members:
            if extension(member.name) in TRUTH_ENDINGS and not is_hidden(member.name):
                entry = TarEntry(str(shard.plain), member.name, member.offset, member.size)
                files[prefix + member.name] = entry
    images, truths = apart(files, kind)
    return pair_up(images, truths, ", ".join(str(tar) for tar in tars), kind) if truths else ()
