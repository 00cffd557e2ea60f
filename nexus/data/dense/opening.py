"""From what a user points at to training and test images with a truth for every pixel."""

import itertools
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nexus.data.datasets.splits import canonical
from nexus.data.dense import class_names
from nexus.data.dense.archives import find_archives, scale_beside
from nexus.data.dense.dataset import DenseDataset, TruthReader
from nexus.data.dense.depth_folders import (
    find_depth_lists,
    find_kitti_folders,
    find_nyu_folders,
    find_nyu_matlab,
)
from nexus.data.dense.depth_maps import KITTI, MILLIMETRES, DepthReader, stored_depth
from nexus.data.dense.folders import find_ade20k, find_folders, find_voc
from nexus.data.dense.label_maps import LabelReader
from nexus.data.dense.layout import DEPTH, LABELS, Kind, Layout
from nexus.data.dense.pairs import Pair
from nexus.errors import DataError, ImageError

log = logging.getLogger(__name__)

TEST_SHARE = 0.2
SPLIT_SEED = 0
_IGNORED = 255

FINDERS: tuple[Callable[[Path, Kind], Layout | None], ...] = (
    find_voc,
    find_ade20k,
    find_nyu_matlab,
    find_depth_lists,
    find_nyu_folders,
    find_kitti_folders,
    find_folders,
    find_archives,
)
"""Every layout, the particular ones first; each says None to what it does not know."""


@dataclass(frozen=True)
class DenseSource:
    """Images to learn from, images to test on, one sentence on how they were told apart, and the layout."""

    train: DenseDataset
    test: DenseDataset
    sentence: str
    layout: Layout
    assumed: tuple[str, ...] = ()
    """What was not said by the data and had to be assumed, for people."""


Spec = str | Path | Sequence[str | Path]


def open_labels(
    spec: Spec,
    *,
    classes: int | None = None,
    ignore: Sequence[int] = (_IGNORED,),
    zero: str = "auto",
    palette: str | None = None,
    limit: int | None = None,
) -> DenseSource:
    """Images with label maps.

    classes   their number; left out: those that a file names, else one more than the largest label found
    ignore    stored numbers without a label
    zero      what 0 means: `class`, `void` (then 1 is the first class), `auto`: `void` in ADE20K's layout
    palette   a file of colours
    limit     the most images of either side

    Raises `DataError`.
    """
    layout = _recognise(spec, LABELS)
    colours, names = layout.palette, dict(layout.classes)
    if palette is not None:
        colours, listed = class_names.read_palette(Path(palette))
        names = names or dict(enumerate(listed))
    ignored = set(ignore) | {value for value, name in names.items() if class_names.is_void(name)}
    if zero == "void" or (zero == "auto" and layout.zero_is_void):
        ignored.add(0)
    assumed = []
    if classes is not None:
        numbers = (value for value in range(1 << 15) if value not in ignored)
        values = list(itertools.islice(numbers, classes))
    elif names:
        values = [value for value in sorted(names) if value not in ignored]
    else:
        values, sentence = _values_found(layout, LabelReader(None, tuple(ignored), colours), ignored)
        assumed.append(sentence)
    reader = LabelReader(tuple(values), tuple(sorted(ignored)), colours)
    titles = tuple(names.get(value, f"class {value}") for value in values)
    if len(values) < 2:
        raise DataError(
            f"{layout.where}: {len(values)} class is not enough to tell apart; two are wanted at least"
        )
    return _source(layout, reader, titles, limit, tuple(assumed))


def open_depth(spec: Spec, *, scale: float | None = None, limit: int | None = None) -> DenseSource:
    """Images with depth maps; `scale` in stored numbers per metre. Raises `DataError`.

    Without `scale` it is the layout's, or what `meta.json` or `README.md` beside the images say, or else, for
    whole numbers, millimetres, which `assumed` then says.
    """
    layout = _recognise(spec, DEPTH)
    known, reason = layout.scale, layout.scale_reason
    if known is None:
        known, reason = scale_beside(
            Path(layout.where) if Path(layout.where).is_dir() else Path(layout.where).parent
        )
    if scale is not None:
        known, reason = scale, "as you said"
    assumed = []
    if known is None and _is_whole(layout):
        known = MILLIMETRES
        assumed.append(
            "depth is taken to be in millimetres, because nothing says otherwise; if not, give the stored "
            "numbers per "
            f"metre, such as depth.scale={KITTI:g} for KITTI"
        )
    elif reason:
        assumed.append(f"depth: {known:g} stored numbers per metre ({reason})")
    return _source(layout, DepthReader(known), (), limit, tuple(assumed))


def find_layout(spec: str | Path, kind: Kind) -> Layout | None:
    """The layout of a place, if it is one with truths of that kind."""
    root = Path(os.path.expanduser(spec))
    found = (finder(root, kind) for finder in FINDERS)
    return next((layout for layout in found if layout is not None), None)


def _recognise(spec: Spec, kind: Kind) -> Layout:
    if not isinstance(spec, str | Path):
        if len(spec) != 1:
            raise DataError(
                f"images with {kind}s are read from one place, not from {len(spec)}; name one folder or "
                "archive"
            )
        spec = spec[0]
    root = Path(os.path.expanduser(spec))
    if not root.exists():
        raise DataError(f"{root} does not exist; check the path")
    layout = find_layout(spec, kind)
    if layout is None:
        examples = {
            LABELS: "images/0001.jpg with masks/0001.png, 0001.jpg with 0001.seg.png, VOC, ADE20K",
            DEPTH: "images/0001.jpg with depth/0001.png, 0001.jpg with 0001.depth.png, NYUv2, KITTI",
        }
        raise DataError(
            f"{root} has no images with a {kind} each; known are {examples[kind]}, also in tar archives; "
            "docs/data.md "
            "shows them"
        )
    for sentence in layout.surprises():
        log.warning("%s; compare with published figures with care", sentence)
    return layout


def _source(
    layout: Layout, reader: TruthReader, classes: tuple[str, ...], limit: int | None, assumed: tuple[str, ...]
) -> DenseSource:
    splits = {canonical(name): name for name in layout.splits}
    held = next((splits[name] for name in ("test", "val") if name in splits), None)
    if "train" in splits and held is not None:
        train, test = layout.splits[splits["train"]], layout.splits[held]
        sentence = f"training on the split {splits['train']!r}, testing on {held!r}"
    else:
        everything = [pair for pairs in layout.splits.values() for pair in pairs]
        train, test = _fifth(everything, layout.where)
        sentence = "no test split: a fixed random fifth of the images is tested on, the rest is learned from"
    sides = [_limited(pairs, limit) for pairs in (train, test)]
    if limit is not None:
        sentence += f" (at most {limit:,} images of each)"
    found = [
        DenseDataset(pairs, reader, f"{layout.name} {layout.where}, {len(pairs):,} {side} images", classes)
        for pairs, side in zip(sides, ("training", "test"), strict=True)
    ]
    for line in assumed:
        log.info("%s", line)
    return DenseSource(found[0], found[1], sentence, layout, assumed)


def _fifth(pairs: Sequence[Pair], where: str) -> tuple[tuple[Pair, ...], tuple[Pair, ...]]:
    if len(pairs) < 2:
        raise DataError(
            f"{where}: one image is not enough to learn from and to test on; two are wanted at least"
        )
    order = np.random.default_rng(SPLIT_SEED).permutation(len(pairs))
    held = set(order[: max(1, round(TEST_SHARE * len(pairs)))].tolist())
    return (
        tuple(pair for i, pair in enumerate(pairs) if i not in held),
        tuple(pair for i, pair in enumerate(pairs) if i in held),
    )


def _limited(pairs: Sequence[Pair], limit: int | None) -> tuple[Pair, ...]:
    if limit is None or len(pairs) <= limit:
        return tuple(pairs)
    chosen = np.random.default_rng(SPLIT_SEED).permutation(len(pairs))[:limit]
    return tuple(pairs[i] for i in sorted(chosen.tolist()))


def _values_found(layout: Layout, reader: LabelReader, ignored: set[int]) -> tuple[list[int], str]:
    """The classes of a source that names none: all numbers up to the largest in any of its label maps."""
    largest, looked = -1, 0
    for pairs in layout.splits.values():
        for pair in pairs:
            try:
                largest = max(largest, int(reader(pair.truth.read(), pair.truth.name).max()))
            except ImageError:
                continue
            looked += 1
    if largest < 0:
        raise DataError(
            f"{layout.where}: no pixel of any label map has a label; all are void, so nothing can be learned"
        )
    values = [value for value in range(largest + 1) if value not in ignored]
    sentence = (
        f"{len(values)} classes: the numbers up to {largest} were found in {looked:,} label maps; name them "
        "in "
        "classes.txt, or give segmentation.classes=N"
    )
    return values, sentence


def _is_whole(layout: Layout) -> bool:
    """Whether the first depth map that can be read holds whole numbers."""
    for pairs in layout.splits.values():
        for pair in pairs:
            try:
                return bool(np.issubdtype(stored_depth(pair.truth.read(), pair.truth.name).dtype, np.integer))
            except ImageError:
                continue
    raise DataError(f"{layout.where}: no depth map can be read")
