"""COCO's JSON: `annotations/instances_*.json`, or one `instances.json` whose images name their split."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from nexus.data.datasets import ImageDataset
from nexus.data.datasets.folder import FileDataset
from nexus.data.images import DEFAULT_LIMITS
from nexus.errors import DataError
from nexus.evals.instance.extra import mask_tools
from nexus.evals.instance.objects import Annotated, Objects, Rle, objects_of

Json = dict[str, Any]


def read_json(path: Path) -> Json:
    """The content of an annotation file, or `DataError`."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        missing = [key for key in ("images", "annotations", "categories") if key not in content]
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"cannot read {path} as COCO's JSON: {error}") from None
    if missing:
        raise DataError(
            f"{path} has no {', '.join(missing)}; COCO's JSON has images, annotations, categories"
        )
    return content


def annotate(content: Json, path: Path, images: ImageDataset) -> Annotated:
    """The objects of every image of a data set, found by `file_name`; images not listed are left out.

    Category ids may have gaps. Raises `DataError` where an annotation names what is not listed.
    """
    categories = sorted(content["categories"], key=lambda one: one["id"])
    numbers = {one["id"]: number for number, one in enumerate(categories)}
    by_name = {str(image["file_name"]): image for image in content["images"]}
    known = {image["id"] for image in content["images"]}
    by_image: dict[Any, list[Json]] = defaultdict(list)
    for one in content["annotations"]:
        if one["image_id"] not in known or one["category_id"] not in numbers:
            raise DataError(
                f"{path}: annotation {one.get('id')} names image {one['image_id']} and category "
                f"{one['category_id']}, which are not both listed; the file is incomplete"
            )
        by_image[one["image_id"]].append(one)
    rows = [i for i in range(len(images)) if _listed(by_name, images.name(i)) is not None]
    if not rows:
        raise DataError(
            f"{path} lists {len(by_name):,} images, and none of them is in {images.description}; "
            "is it the file of this folder?"
        )
    found = []
    for i in rows:
        image = _listed(by_name, images.name(i))
        assert image is not None
        found.append(_objects(by_image[image["id"]], image, numbers))
    return Annotated(images.subset(rows), tuple(found), tuple(str(one["name"]) for one in categories))


def image_folder(root: Path, path: Path, content: Json) -> FileDataset:
    """The images that an annotation file names, in the usual places: `val2017/`, `images/val2017/`, ..."""
    names = [str(image["file_name"]) for image in content["images"]]
    if not names:
        raise DataError(f"{path} lists no images")
    split = path.stem.partition("_")[2]
    plain = split.rstrip("0123456789")
    places = [root / a / b for a in (".", "images") for b in (split, plain, ".")]
    place = next((p for p in places if any((p / name).is_file() for name in names[:20])), None)
    if place is None:
        looked = ", ".join(dict.fromkeys(str(p.relative_to(root)) for p in places))
        raise DataError(f"{names[0]}, which {path} names, is not in {root} (looked in {looked})")
    return FileDataset(place, names, f"{len(names):,} images of {path.name}", DEFAULT_LIMITS)


def _listed(by_name: dict[str, Json], name: str) -> Json | None:
    return by_name.get(name) or by_name.get(name.partition("/")[2])


def _objects(annotations: list[Json], image: Json, numbers: dict[Any, int]) -> Objects:
    boxes = [_corners(one["bbox"]) for one in annotations]
    with_masks = bool(annotations) and all(one.get("segmentation") for one in annotations)
    return objects_of(
        boxes,
        [numbers[one["category_id"]] for one in annotations],
        [bool(one.get("iscrowd", 0)) for one in annotations],
        [float(one.get("area", one["bbox"][2] * one["bbox"][3])) for one in annotations],
        [_rle(one["segmentation"], image) for one in annotations] if with_masks else None,
    )


def _corners(box: list[float]) -> list[float]:
    left, top, width, height = box
    return [left, top, left + width, top + height]


def _rle(segmentation: Any, image: Json) -> Rle:
    """Polygons, or a run-length code in numbers or in text, as pycocotools keeps it."""
    tools = mask_tools()
    height, width = image["height"], image["width"]
    if isinstance(segmentation, list):
        return tools.merge(tools.frPyObjects(segmentation, height, width))
    if isinstance(segmentation["counts"], list):
        return tools.frPyObjects(segmentation, height, width)
    return segmentation
