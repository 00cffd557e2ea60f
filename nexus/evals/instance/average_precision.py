"""Box and mask AP by pycocotools, and the same AP over any multiset of the images, for the bootstrap.

pycocotools matches detections to objects image by image; only the sums run over all images. The matches are
kept, and a resample weights them by how often its images were drawn: the same AP, without matching again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from nexus.evals.instance.extra import coco_tools, mask_tools, silent
from nexus.evals.instance.objects import Objects, Rle

FIGURES = ("AP", "AP50", "AP75", "APs", "APm", "APl")
MOST = 100
"""Detections of an image that count."""


@dataclass(frozen=True)
class Detections:
    """What a detector found in one image, in its own pixels, best first."""

    boxes: Float[np.ndarray, "found 4"]
    labels: Int[np.ndarray, " found"]
    scores: Float[np.ndarray, " found"]
    masks: tuple[Rle, ...] | None = None


@dataclass(frozen=True)
class _Class:
    """All detections of one class, sorted by score."""

    image: Int[np.ndarray, " found"]
    right: Float[np.ndarray, "thresholds found"]
    wrong: Float[np.ndarray, "thresholds found"]
    objects: Int[np.ndarray, " images"]


@dataclass(frozen=True)
class AveragePrecision:
    """AP in 0..1, with pycocotools' other figures, and the matches that it came from."""

    figures: dict[str, float | None]
    """`FIGURES`; None where there are no objects of that kind."""
    per_class: dict[str, float]
    """AP of each class that has objects."""
    classes: tuple[_Class, ...]
    recalls: Float[np.ndarray, " recalls"]

    def score(self, picked: Int[Tensor, " picked"]) -> float:
        """AP over a multiset of images; NaN where these have no object."""
        images = len(self.classes[0].objects) if self.classes else 0
        weight = np.bincount(picked.numpy(), minlength=images).astype(np.float64)
        found = [self._one(one, weight) for one in self.classes]
        known = [value for value in found if value is not None]
        return float(np.mean(known)) if known else float("nan")

    def _one(self, one: _Class, weight: Float[np.ndarray, " images"]) -> float | None:
        objects = float(weight @ one.objects)
        if objects == 0:
            return None
        times = weight[one.image]
        right, wrong = (one.right * times).cumsum(axis=1), (one.wrong * times).cumsum(axis=1)
        recall, precision = right / objects, right / (right + wrong + np.spacing(1))
        precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        total = 0.0
        for values, places in zip(precision, recall, strict=True):
            at = np.searchsorted(places, self.recalls, side="left")
            total += values[at[at < len(values)]].sum()
        return total / (len(precision) * len(self.recalls)) if len(precision) else 0.0


def average_precision(
    truth: Sequence[Objects],
    found: Sequence[Detections],
    classes: Sequence[str],
    sizes: Sequence[tuple[int, int]],
    kind: str,
) -> AveragePrecision:
    """AP of `kind` "bbox" or "segm" over images of `sizes` (height, width)."""
    _, evaluator = coco_tools()
    with silent():
        gold = _truth(truth, classes, sizes)
        answers = _answers(found, kind)
        judge = evaluator(gold, gold.loadRes(answers) if answers else _nothing(gold), kind)
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    values = [None if value < 0 else float(value) for value in judge.stats[: len(FIGURES)]]
    kept = _matches(judge, len(truth), len(classes))
    result = AveragePrecision(dict(zip(FIGURES, values, strict=True)), {}, kept, judge.params.recThrs)
    everything = np.ones(len(truth))
    each = ((name, result._one(one, everything)) for name, one in zip(classes, kept, strict=True))
    result.per_class.update({name: value for name, value in each if value is not None})
    return result


def _matches(judge: Any, images: int, classes: int) -> tuple[_Class, ...]:
    """What `evaluate` found under "all areas", which is the first of its area ranges."""
    ranges, steps = len(judge.params.areaRng), len(judge.params.iouThrs)
    kept = []
    for number in range(classes):
        start = number * ranges * images
        ones = judge.evalImgs[start : start + images]
        found = [(i, one) for i, one in enumerate(ones) if one is not None]
        scores = np.concatenate([one["dtScores"][:MOST] for _, one in found] or [np.zeros(0)])
        order = np.argsort(-scores, kind="mergesort")
        match = [one["dtMatches"][:, :MOST].astype(bool) for _, one in found] or [np.zeros((steps, 0), bool)]
        skip = [one["dtIgnore"][:, :MOST].astype(bool) for _, one in found] or [np.zeros((steps, 0), bool)]
        matched, ignored = (np.concatenate(part, axis=1)[:, order] for part in (match, skip))
        image = np.repeat([i for i, _ in found], [min(len(one["dtScores"]), MOST) for _, one in found])
        objects = np.zeros(images, dtype=np.int64)
        for i, one in found:
            objects[i] = int((~np.asarray(one["gtIgnore"]).astype(bool)).sum())
        kept.append(
            _Class(
                image.astype(np.int64)[order],
                (matched & ~ignored).astype(np.float64),
                (~matched & ~ignored).astype(np.float64),
                objects,
            )
        )
    return tuple(kept)


def _truth(truth: Sequence[Objects], classes: Sequence[str], sizes: Sequence[tuple[int, int]]) -> Any:
    coco, _ = coco_tools()
    gold = coco()
    annotations: list[dict[str, Any]] = []
    for image, objects in enumerate(truth):
        for row in range(len(objects)):
            one = {
                "id": len(annotations) + 1,
                "image_id": image + 1,
                "category_id": int(objects.labels[row]) + 1,
                "bbox": _with_sides(objects.boxes[row]),
                "area": float(objects.areas[row]),
                "iscrowd": int(objects.crowd[row]),
            }
            if objects.masks is not None:
                one["segmentation"] = objects.masks[row]
            annotations.append(one)
    gold.dataset = {
        "info": {},
        "images": [{"id": i + 1, "height": h, "width": w} for i, (h, w) in enumerate(sizes)],
        "categories": [{"id": number + 1, "name": name} for number, name in enumerate(classes)],
        "annotations": annotations,
    }
    gold.createIndex()
    return gold


def _answers(found: Sequence[Detections], kind: str) -> list[dict[str, Any]]:
    answers = []
    for image, one in enumerate(found):
        for row in range(len(one.scores)):
            entry: dict[str, Any] = {
                "image_id": image + 1,
                "category_id": int(one.labels[row]) + 1,
                "score": float(one.scores[row]),
            }
            if kind == "segm":
                assert one.masks is not None
                entry["segmentation"] = one.masks[row]
            else:
                entry["bbox"] = _with_sides(one.boxes[row])
            answers.append(entry)
    return answers


def _nothing(gold: Any) -> Any:
    """An answer without a detection, which `loadRes` does not take."""
    coco, _ = coco_tools()
    empty = coco()
    empty.dataset = {**gold.dataset, "annotations": []}
    empty.createIndex()
    return empty


def _with_sides(box: Float[np.ndarray, "4"]) -> list[float]:
    left, top, right, bottom = (float(edge) for edge in box)
    return [left, top, right - left, bottom - top]


def encode(mask: np.ndarray) -> Rle:
    """A mask (height, width) of 0 and 1 as pycocotools keeps it."""
    return mask_tools().encode(np.asfortranarray(mask.astype(np.uint8)))
