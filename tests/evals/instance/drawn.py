"""Small data sets of drawn rectangles and discs, in COCO's, VOC's and the packs' layouts."""

import json
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SIDE = 64
IDS = {"disc": 7, "box": 3}
"""Category ids with a gap, not in the order of their names."""


def drawn(rng, noise=False):
    """An image, its boxes and their class names."""
    image = Image.fromarray(rng.integers(90, 120, (SIDE, SIDE, 3), dtype=np.uint8))
    pen = ImageDraw.Draw(image)
    boxes, names = [], []
    for _ in range(int(rng.integers(1, 3))):
        width, height = rng.integers(18, 30, 2)
        left, top = rng.integers(0, SIDE - width), rng.integers(0, SIDE - height)
        name = "disc" if rng.random() < 0.5 else "box"
        place = (int(left), int(top), int(left + width), int(top + height))
        if not noise:
            draw, colour = (pen.ellipse, (230, 60, 40)) if name == "disc" else (pen.rectangle, (40, 90, 230))
            draw(place, fill=colour)
        boxes.append(place)
        names.append(name)
    return image, boxes, names


def polygon(box):
    left, top, right, bottom = box
    return [[left, top, right, top, right, bottom, left, bottom]]


def coco(root: Path, train=6, test=4, masks=True, noise=False, extra=()) -> Path:
    rng = np.random.default_rng(0)
    (root / "annotations").mkdir(parents=True)
    for split, count in (("train2017", train), ("val2017", test)):
        (root / split).mkdir()
        images, annotations = [], []
        for number in range(count):
            image, boxes, names = drawn(rng, noise)
            file = f"{number:04d}.png"
            image.save(root / split / file)
            images.append({"id": 100 + number, "file_name": file, "width": SIDE, "height": SIDE})
            for box, name in zip(boxes, names, strict=True):
                left, top, right, bottom = box
                one = {
                    "id": len(annotations) + 1,
                    "image_id": 100 + number,
                    "category_id": IDS[name],
                    "bbox": [left, top, right - left, bottom - top],
                    "area": (right - left) * (bottom - top),
                    "iscrowd": 0,
                }
                annotations.append({**one, "segmentation": polygon(box)} if masks else one)
        annotations += [{"id": 9000 + i, **one} for i, one in enumerate(extra)]
        categories = [{"id": number, "name": name} for name, number in IDS.items()]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root


def voc(root: Path, count=6) -> Path:
    rng = np.random.default_rng(0)
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for number in range(count):
        image, boxes, names = drawn(rng)
        image.save(root / "JPEGImages" / f"{number}.jpg")
        objects = "".join(
            f"<object><name>{name}</name><difficult>{int(number == 0)}</difficult>"
            f"<bndbox><xmin>{b[0] + 1}</xmin><ymin>{b[1] + 1}</ymin>"
            f"<xmax>{b[2]}</xmax><ymax>{b[3]}</ymax></bndbox></object>"
            for b, name in zip(boxes, names, strict=True)
        )
        (root / "Annotations" / f"{number}.xml").write_text(f"<annotation>{objects}</annotation>")
    (root / "ImageSets/Main/trainval.txt").write_text("\n".join(map(str, range(1, count))))
    (root / "ImageSets/Main/test.txt").write_text("0\n")
    return root


def pack(root: Path, counts=(("train", 4), ("test", 2))) -> Path:
    rng = np.random.default_rng(0)
    root.mkdir(exist_ok=True)
    rows = ["key,split,file"]
    for split, count in counts:
        with tarfile.open(root / f"x-{split}.tar", "w") as archive:
            for number in range(count):
                image, boxes, names = drawn(rng)
                key = f"{split}{number}"
                image.save(root / f"{key}.png")
                content = [{"label": n, "bbox_xyxy": b} for b, n in zip(boxes, names, strict=True)]
                (root / f"{key}.json").write_text(json.dumps({"boxes": content}))
                for ending in ("png", "json"):
                    archive.add(root / f"{key}.{ending}", f"{key}.{ending}")
                    (root / f"{key}.{ending}").unlink()
                rows.append(f"{key},{split},{key}.png")
    (root / "manifest.csv").write_text("\n".join(rows))
    return root
