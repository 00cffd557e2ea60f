"""Training and test images with their objects, from whatever layout they are in."""

from collections.abc import Sequence
from pathlib import Path

import torch

from nexus.data.datasets import available_splits, open_dataset
from nexus.data.datasets.pack import is_pack, tars_in
from nexus.data.datasets.splits import canonical
from nexus.errors import DataError
from nexus.evals.instance.boxes import annotated, pack_objects, voc_images, voc_objects
from nexus.evals.instance.coco import annotate, image_folder, read_json
from nexus.evals.instance.objects import Annotated

TEST_SHARE, SEED = 0.2, 0
Sides = tuple[Annotated, Annotated, str]


def open_objects(spec: str | Path | Sequence[str | Path], limit: int | None = None) -> Sides:
    """Training images, test images, and a sentence. Without a test split a seeded fifth is tested on.

    `limit` is the most images of either side. Raises `DataError` for a folder in no known layout, and where
    there is not one object to learn from.
    """
    root = Path(spec).expanduser() if isinstance(spec, str | Path) else None
    if root is None or not root.is_dir():
        raise DataError(f"instance needs one folder with images and their objects, not {spec}. " + LAYOUTS)
    train, test, sentence = _open(root)
    train, test = _limited(train, limit), _limited(test, limit)
    if not any(len(one.trained_on()) for one in train.objects):
        raise DataError(f"{root}: no training image has an object with an area; there is nothing to learn")
    if not any(len(one) for one in test.objects):
        raise DataError(f"{root}: no test image has an object; there is nothing to find")
    return train, test, sentence + ("" if limit is None else f" (at most {limit:,} images of each)")


LAYOUTS = (
    "Known layouts: annotations/instances_*.json (COCO), Annotations/*.xml with JPEGImages (VOC), and packs "
    "with instances.json or a .json of boxes beside each image"
)


def _open(root: Path) -> Sides:
    files = sorted((root / "annotations").glob("instances_*.json"))
    if files:
        return _coco(root, files)
    if (root / "Annotations").is_dir() and (root / "JPEGImages").is_dir():
        return _voc(root)
    if not is_pack(root):
        raise DataError(f"{root} has no objects that nexus can read. " + LAYOUTS)
    splits = {canonical(name): name for name in available_splits(root)}
    train, test = _names(splits)
    parts = [open_dataset(root, name) for name in ((train, test) if test is not None else (train,)) if name]
    parts = parts or [open_dataset(root)]
    path = root / "instances.json"
    if path.is_file():
        content = read_json(path)
        return _sides([annotate(content, path, images) for images in parts], train, test)
    return _sides(annotated(parts, pack_objects(tars_in(root))), train, test)


def _coco(root: Path, files: list[Path]) -> Sides:
    by_split = {canonical(f.stem.partition("_")[2].rstrip("0123456789")): f for f in files}
    train, test = _names({name: name for name in by_split})
    chosen = [by_split[name] for name in (train, test) if name is not None] or files[:1]
    parts = []
    for path in chosen:
        content = read_json(path)
        parts.append(annotate(content, path, image_folder(root, path, content)))
    if len({part.classes for part in parts}) > 1:
        raise DataError(
            f"{chosen[0]} and {chosen[1]} have different categories; they are not of one data set"
        )
    return _sides(parts, train, test)


def _voc(root: Path) -> Sides:
    lists = {path.stem for path in (root / "ImageSets" / "Main").glob("*.txt")}
    test = next((name for name in ("test", "val") if name in lists), None)
    wanted = ("trainval", "train") if test == "test" else ("train",)
    train = next((name for name in wanted if name in lists), None)
    both = train is not None and test is not None
    parts = [voc_images(root, name) for name in (train, test)] if both else [voc_images(root, None)]
    return _sides(annotated(parts, lambda name: voc_objects(root, name)), train, test)


def _names(splits: dict[str, str]) -> tuple[str | None, str | None]:
    held = next((splits[name] for name in ("test", "val") if name in splits), None)
    return (splits["train"], held) if "train" in splits and held is not None else (None, None)


def _sides(parts: Sequence[Annotated], train: str | None, test: str | None) -> Sides:
    if len(parts) == 2:
        return parts[0], parts[1], f"training on the split {train!r}, testing on {test!r}"
    (whole,) = parts
    order = torch.randperm(len(whole.objects), generator=torch.Generator().manual_seed(SEED)).tolist()
    held = max(1, round(TEST_SHARE * len(order)))
    sentence = "no test split: a fixed random fifth of the images is tested on, the rest is learned from"
    return whole.part(sorted(order[held:])), whole.part(sorted(order[:held])), sentence


def _limited(side: Annotated, limit: int | None) -> Annotated:
    if limit is None or len(side.objects) <= limit:
        return side
    order = torch.randperm(len(side.objects), generator=torch.Generator().manual_seed(SEED))
    return side.part(order[:limit].sort().values.tolist())
