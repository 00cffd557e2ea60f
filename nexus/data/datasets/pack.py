"""Packs: a folder with tar archives and a `manifest.csv` that says which members are the images.

The manifest has a row per image and a `file` column (the member's name), and may have `split`, `label` and
`class`. Members that it does not name (label maps, depth) are not images here. The archives of one split are
recognised by their names, `anything-SPLIT.tar`.
"""

import csv
from collections.abc import Sequence
from pathlib import Path

from nexus.data.batch import Fault
from nexus.data.datasets.folder import describe
from nexus.data.datasets.labels import encode_labels
from nexus.data.datasets.listing import Table, read_table
from nexus.data.datasets.shards import Place, Shard, ShardDataset, read_shard
from nexus.data.datasets.splits import in_order, match_split
from nexus.data.datasets.tarindex import Member
from nexus.data.images import ImageLimits
from nexus.errors import DataError

MANIFEST = "manifest.csv"
TAR_ENDINGS = (".tar", ".tar.gz", ".tgz")


def is_tar_name(name: str) -> bool:
    """Whether a file is called like a tar archive that can be read."""
    return name.lower().endswith(TAR_ENDINGS)


def tars_in(folder: Path) -> list[Path]:
    """The archives directly in a folder, by name."""
    return sorted(p for p in folder.iterdir() if is_tar_name(p.name) and not p.name.startswith("."))


def is_pack(folder: Path) -> bool:
    """Whether the folder has archives and a manifest with a `file` column."""
    return has_manifest(folder) and bool(tars_in(folder))


def has_manifest(folder: Path) -> bool:
    """Whether the folder has a `manifest.csv` with a `file` column."""
    try:
        with open(folder / MANIFEST, newline="", encoding="utf-8-sig", errors="replace") as file:
            return "file" in next(csv.reader(file), [])
    except (OSError, csv.Error):
        return False


def pack_splits(folder: Path, tars: Sequence[Path] | None = None) -> tuple[str, ...]:
    """The manifest's splits; of some of the archives only, those that the archives are named after."""
    splits = in_order(value for value in read_table(folder / MANIFEST).splits or () if value)
    if tars is None:
        return splits
    return tuple(split for split in splits if _of_split(tars, split)) or splits


def open_pack(
    folder: Path, split: str | None, limits: ImageLimits, tars: Sequence[Path] | None = None
) -> ShardDataset | None:
    """The manifest's images in manifest order; with `tars`, only those in these archives.

    None where the given archives hold nothing that the manifest names: it is not theirs.
    """
    table = read_table(folder / MANIFEST)
    if split is not None:
        split = match_split(split, pack_splits(folder, tars), f"pack {folder}")
    labels, classes = encode_labels(table.labels or table.classes or [], table.classes)
    rows = [i for i in range(len(table.paths)) if split is None or _split(table, i) == split]
    archives = list(tars) if tars is not None else tars_in(folder)
    if split is not None:
        archives = _of_split(archives, split) or archives
    shards = [read_shard(path) for path in archives]
    places = _places(table, rows, shards)
    found = [(row, place) for row, place in zip(rows, places, strict=True) if place is not None]
    faults = tuple(fault for shard in shards for fault in shard.faults)
    if tars is None:
        missing = "listed in manifest.csv, but in none of the archives"
        pairs = zip(rows, places, strict=True)
        faults += tuple(Fault(table.paths[row], missing) for row, place in pairs if place is None)
    if not found:
        if tars is not None:
            return None
        raise DataError(
            f"pack {folder}: none of the {len(rows):,} images in {MANIFEST} is in "
            f"{', '.join(path.name for path in archives)}; do the archives belong to it?"
        )
    chosen = [row for row, _ in found]
    chosen_labels = None if labels is None else labels[chosen]
    what = f"pack {folder}" if tars is None else ", ".join(map(str, tars))
    description = describe(what + (f", split {split}" if split else ""), len(found), chosen_labels)
    names = _unique(table, chosen)
    places_found = [place for _, place in found]
    return ShardDataset(shards, names, places_found, description, limits, chosen_labels, classes, faults)


def _split(table: Table, row: int) -> str | None:
    return table.splits[row] if table.splits else None


def _of_split(tars: Sequence[Path], split: str) -> list[Path]:
    """The archives named after a split."""
    return [path for path in tars if path.name.lower().split(".tar")[0].endswith(f"-{split.lower()}")]


def _places(table: Table, rows: Sequence[int], shards: Sequence[Shard]) -> list[Place | None]:
    """Where each row's file is: in an archive named after its split if one has it, else in any."""
    members: list[dict[str, Member]] = [{m.name: m for m in shard.members} for shard in shards]
    orders: dict[str | None, list[int]] = {}
    result: list[Place | None] = []
    for row in rows:
        split = _split(table, row)
        if split not in orders:
            own = [i for i, shard in enumerate(shards) if split and _of_split([shard.path], split)]
            orders[split] = own + [i for i in range(len(shards)) if i not in own]
        name = table.paths[row]
        at = next((i for i in orders[split] if name in members[i]), None)
        result.append(None if at is None else Place(at, members[at][name]))
    return result


def _unique(table: Table, rows: Sequence[int]) -> list[str]:
    """The file names, with the split in front where two splits use the same one."""
    names = [table.paths[row] for row in rows]
    if len(set(names)) == len(names):
        return names
    return [f"{_split(table, row)}/{table.paths[row]}" for row in rows]
