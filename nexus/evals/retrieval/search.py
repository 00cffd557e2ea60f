"""From what a user points at to queries, a gallery, and which answers are right.

| protocol        | chosen where                                | queries                 | gallery       |
|-----------------|---------------------------------------------|-------------------------|---------------|
| `landmarks`     | there is a `gnd_*.pkl` or `.json`           | its list, cut out       | its list      |
| `copies`        | the list's `transform` has an `original`    | the transformed copies  | all others    |
| `query_gallery` | splits query and gallery; labels by splits  | query, or else test     | gallery, train|
| `leave_one_out` | otherwise                                   | all that have a partner | all others    |

Groups are the `group` column of the list (a negative or empty one belongs to nobody: a distractor), or the
class labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int

from nexus.data.datasets import ImageDataset, available_splits, open_dataset
from nexus.data.datasets.columns import list_behind, read_columns
from nexus.data.datasets.splits import canonical
from nexus.errors import ConfigError, DataError
from nexus.evals.retrieval.config import RetrievalConfig
from nexus.evals.retrieval.landmarks import find_ground_truth, read_landmarks
from nexus.evals.retrieval.truth import GroupTruth, Truth

ASKING = ("query", "queries", "probe")
SEARCHED = ("gallery", "index", "database")
ORIGINAL = ("original", "orig", "none", "")
SEED = 0


@dataclass(frozen=True)
class Search:
    """Who asks, who is searched, which answers count."""

    queries: ImageDataset
    gallery: ImageDataset
    truths: dict[str, Truth]
    """By the name of a protocol; the first is the headline."""
    sentence: str
    """For people: what asks what, and why it was chosen."""
    train: ImageDataset | None = None
    """Images that whitening may be learned from."""
    transforms: tuple[str, ...] = ()
    """What was done to each query, where it is a copy."""
    trapezoids: bool = False
    """Whether AP is that of the landmark sets."""
    facts: dict[str, int] = field(default_factory=dict)
    """Counts worth reporting: groups, distractors."""


@dataclass(frozen=True)
class _Grouped:
    """Images with a group each."""

    images: ImageDataset
    groups: Int[np.ndarray, " images"]
    transforms: tuple[str, ...] | None
    what: str

    def part(self, rows: Int[np.ndarray, " rows"]) -> "_Grouped":
        transforms = None if self.transforms is None else tuple(self.transforms[i] for i in rows)
        return _Grouped(self.images.subset(rows), self.groups[rows], transforms, self.what)

    def all(self) -> Int[np.ndarray, " images"]:
        return np.arange(len(self.groups))


def open_search(
    spec: str | Path | Sequence[str | Path], config: RetrievalConfig, limit: int | None
) -> Search:
    """What `spec` offers under `config`. `limit` caps the queries, and whole groups of the gallery.

    Raises `DataError` where nothing can be asked, `ConfigError` for a protocol that the data do not have.
    """
    file = find_ground_truth(spec)
    if config.protocol == "landmarks" or (config.protocol == "auto" and file is not None):
        return _landmarks(spec, file, config, limit)
    splits = {canonical(name): name for name in reversed(available_splits(spec))}
    asking, searched = (
        next((splits[name] for name in names if name in splits), None) for names in (ASKING, SEARCHED)
    )
    train = open_dataset(spec, splits["train"]) if "train" in splits else None
    if asking and searched:
        return _query_gallery(_grouped(spec, asking, config), _grouped(spec, searched, config), train, limit)
    tested = next((splits[name] for name in ("test", "val") if name in splits), None)
    grouped = _grouped(spec, tested if train is not None else None, config)
    if config.protocol == "copies" or (config.protocol == "auto" and _has_originals(grouped)):
        return _copies(grouped, train, limit)
    by_split = train is not None and tested is not None and grouped.what == "label"
    if config.protocol == "query_gallery" or (config.protocol == "auto" and by_split):
        if train is None or tested is None:
            raise ConfigError(
                "protocol=query_gallery needs the splits query and gallery, or train and test; "
                f"{grouped.images.description} has {', '.join(splits.values()) or 'none'}"
            )
        return _query_gallery(grouped, _grouped(spec, splits["train"], config), train, limit)
    return _leave_one_out(grouped, train, limit)


def _landmarks(spec: object, file: Path | None, config: RetrievalConfig, limit: int | None) -> Search:
    if file is None:
        raise ConfigError(f"protocol=landmarks needs a folder with a gnd_*.pkl or .json; {spec} has none")
    found = read_landmarks(file)
    names = [config.difficulty, *(name for name in found.truths if name != config.difficulty)]
    queries = (
        found.queries if limit is None else found.queries.subset(np.arange(min(limit, len(found.queries))))
    )
    sentence = f"landmarks: {found.note}; headline {config.difficulty}"
    truths = {name: found.truths[name] for name in names}
    return Search(queries, found.gallery, truths, sentence, trapezoids=True)


def _copies(grouped: _Grouped, train: ImageDataset | None, limit: int | None) -> Search:
    if grouped.transforms is None or not _has_originals(grouped):
        raise ConfigError(
            "protocol=copies needs a column `transform` in which the originals are called original"
        )
    grouped = _limited(grouped, limit)
    assert grouped.transforms is not None
    original = np.array([name.lower() in ORIGINAL for name in grouped.transforms])
    queries = grouped.part(np.flatnonzero(~original & (grouped.groups >= 0)))
    gallery = grouped.part(np.flatnonzero(original | (grouped.groups < 0)))
    assert queries.transforms is not None
    return Search(
        queries.images,
        gallery.images,
        {"copies": GroupTruth(queries.groups, gallery.groups)},
        f"{len(queries.groups):,} changed copies look for their originals in {len(gallery.groups):,} images",
        train,
        transforms=queries.transforms,
        facts=_facts(gallery),
    )


def _query_gallery(
    queries: _Grouped, gallery: _Grouped, train: ImageDataset | None, limit: int | None
) -> Search:
    if limit is not None:
        queries = queries.part(_drawn(len(queries.groups), limit))
    return Search(
        queries.images,
        gallery.images,
        {"query_gallery": GroupTruth(queries.groups, gallery.groups)},
        f"{len(queries.groups):,} queries search {len(gallery.groups):,} images for their {queries.what}",
        train,
        facts=_facts(gallery),
    )


def _leave_one_out(grouped: _Grouped, train: ImageDataset | None, limit: int | None) -> Search:
    grouped = _limited(grouped, limit)
    values, where, counts = np.unique(grouped.groups, return_inverse=True, return_counts=True)
    asks = np.flatnonzero((counts[where] > 1) & (values[where] >= 0))
    if not len(asks):
        raise DataError(
            f"{grouped.images.description}: no {grouped.what} has two images, so there is nothing to find; "
            "give images that belong together the same group"
        )
    queries = grouped.part(asks)
    return Search(
        queries.images,
        grouped.images,
        {"leave_one_out": GroupTruth(queries.groups, grouped.groups, own=asks)},
        f"each of {len(asks):,} images searches {len(grouped.groups) - 1:,} others for its {grouped.what}",
        train,
        facts=_facts(grouped),
    )


def _grouped(spec: str | Path | Sequence[str | Path], split: str | None, config: RetrievalConfig) -> _Grouped:
    """The images of a split with their groups; those of a list's columns are found by the image's name."""
    images = open_dataset(spec, split)
    file = None if config.groups == "label" else list_behind(spec)
    columns = read_columns(file) if file is not None else {}
    if "group" in columns:
        rows = {name: row for row, name in reversed(list(enumerate(columns["path"])))}
        at = [_row(rows, images.name(i)) for i in range(len(images))]
        numbers = _numbered(columns["group"])  # of all splits, so that a number means the same in each
        groups = np.array([-1 if row is None else numbers[row] for row in at], dtype=np.int64)
        known = columns.get("transform")
        transforms = None if known is None else tuple("" if row is None else known[row] for row in at)
        return _Grouped(images, groups, transforms, "group")
    if config.groups == "group":
        where = (
            f"{file} has the columns {', '.join(columns)}" if file else f"{images.description} has no list"
        )
        raise DataError(f"groups=group needs a list with a column `group`; {where}")
    if images.labels is None:
        raise DataError(
            f"{images.description} has neither groups nor labels, so no answer can be right: give a CSV list "
            "with the columns path,group, or put images that belong together in one folder"
        )
    return _Grouped(images, images.labels.astype(np.int64), None, "label")


def _row(rows: dict[str, int], name: str) -> int | None:
    """The row of an image; packs put the split in front of names that two splits share."""
    return rows.get(name, rows.get(name.partition("/")[2]))


def _numbered(texts: Sequence[str]) -> Int[np.ndarray, " images"]:
    """Groups as numbers from 0; -1 for an empty or negative one."""
    numbers: dict[str, int] = {}
    return np.array(
        [-1 if not t or t.startswith("-") else numbers.setdefault(t, len(numbers)) for t in texts],
        dtype=np.int64,
    )


def _has_originals(grouped: _Grouped) -> bool:
    names = {name.lower() for name in grouped.transforms or ()}
    return bool(names & set(ORIGINAL[:-1])) and len(names) > 1


def _limited(grouped: _Grouped, limit: int | None) -> _Grouped:
    """About `limit` images: whole groups and single distractors, drawn in a seeded order."""
    if limit is None or len(grouped.groups) <= limit:
        return grouped
    units = np.where(grouped.groups >= 0, grouped.groups, -1 - grouped.all())
    values, counts = np.unique(units, return_counts=True)
    order = torch.randperm(len(values), generator=torch.Generator().manual_seed(SEED)).numpy()
    taken = 1 + int(np.searchsorted(counts[order].cumsum(), limit))
    return grouped.part(np.flatnonzero(np.isin(units, values[order[:taken]])))


def _drawn(count: int, limit: int) -> Int[np.ndarray, " rows"]:
    order = torch.randperm(count, generator=torch.Generator().manual_seed(SEED))
    return order[:limit].sort().values.numpy()


def _facts(gallery: _Grouped) -> dict[str, int]:
    known = gallery.groups[gallery.groups >= 0]
    return {"groups": len(np.unique(known)), "distractors": len(gallery.groups) - len(known)}
