"""Boxes without masks: Pascal VOC's XML files, and packs with a `.json` of boxes beside each image."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from nexus.data.datasets import ImageDataset
from nexus.data.datasets.folder import FileDataset
from nexus.data.datasets.shards import read_shard
from nexus.data.images import DEFAULT_LIMITS
from nexus.errors import DataError
from nexus.evals.instance.objects import Annotated, objects_of

Named = list[tuple[str, list[float], bool]]
"""Class name, box, whether it is difficult."""


def voc_images(root: Path, split: str | None) -> FileDataset:
    """The images of a VOC folder: those of `ImageSets/Main/SPLIT.txt`, or all with an XML file."""
    listed = root / "ImageSets" / "Main" / f"{split}.txt"
    if split is not None:
        stems = [line.split()[0] for line in listed.read_text().splitlines() if line.strip()]
    else:
        stems = sorted(path.stem for path in (root / "Annotations").glob("*.xml"))
    endings = {path.stem: path.name for path in sorted((root / "JPEGImages").iterdir())}
    names = [endings.get(stem, f"{stem}.jpg") for stem in stems]
    what = f"VOC folder {root}" + (f", split {split}" if split else "")
    return FileDataset(root / "JPEGImages", names, what, DEFAULT_LIMITS)


def voc_objects(root: Path, name: str) -> Named:
    """What the XML file of an image says; VOC counts pixels from 1."""
    path = root / "Annotations" / f"{Path(name).stem}.xml"
    try:
        tree = ElementTree.parse(path).getroot()
        return [
            (
                str(one.findtext("name")).strip(),
                [
                    float(one.findtext(f"bndbox/{edge}") or "nan") - shift
                    for edge, shift in (("xmin", 1), ("ymin", 1), ("xmax", 0), ("ymax", 0))
                ],
                one.findtext("difficult", "0").strip() == "1",
            )
            for one in tree.iter("object")
        ]
    except (OSError, ValueError, ElementTree.ParseError) as error:
        raise DataError(f"cannot read the boxes in {path}: {error}") from None


def pack_objects(tars: Sequence[Path]) -> Callable[[str], Named]:
    """A function from an image's name to its boxes, from `KEY.json` with `boxes: [{label, bbox_xyxy}]`."""
    texts: dict[str, bytes] = {}
    for tar in tars:
        shard = read_shard(tar)
        with open(shard.plain, "rb") as file:
            for member in shard.members:
                if member.name.endswith(".json"):
                    file.seek(member.offset)
                    texts[member.name.removesuffix(".json")] = file.read(member.size)

    def read(name: str) -> Named:
        key = name.rpartition(".")[0]
        text = texts.get(key, texts.get(key.partition("/")[2]))
        try:
            content: Any = json.loads(text or b"")
            return [
                (str(one["label"]), [float(x) for x in one["bbox_xyxy"]], False) for one in content["boxes"]
            ]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{key}.json says nothing about boxes ({error!r}); a pack of boxes has one for each image: "
                '{"boxes": [{"label": "cat", "bbox_xyxy": [left, top, right, bottom]}]}'
            ) from None

    return read


def annotated(sides: Sequence[ImageDataset], read: Callable[[str], Named]) -> list[Annotated]:
    """Several parts of the same data with one numbering of the classes, by name."""
    found = [[read(images.name(i)) for i in range(len(images))] for images in sides]
    classes = sorted({name for side in found for one in side for name, _, _ in one})
    numbers = {name: number for number, name in enumerate(classes)}
    return [
        Annotated(
            images,
            tuple(
                objects_of([b for _, b, _ in one], [numbers[n] for n, _, _ in one], [d for _, _, d in one])
                for one in side
            ),
            tuple(classes),
        )
        for images, side in zip(sides, found, strict=True)
    ]
