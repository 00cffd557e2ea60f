"""AP against pycocotools on duplicated images, and by hand."""

import numpy as np
import pytest
import torch

from nexus.evals.instance.average_precision import Detections, average_precision, encode
from nexus.evals.instance.objects import objects_of

SIZE = (64, 64)


def found(boxes, labels, scores, masks=None):
    table = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    return Detections(table, np.array(labels, dtype=np.int64), np.array(scores, dtype=np.float32), masks)


def test_by_hand():
    """One object found after one false alarm: precision 1/2 at every recall, at the thresholds up to its IoU.

    The IoU is 70/100, which passes 0.5, 0.55, 0.6, 0.65 and 0.7.
    """
    truth = [objects_of([[0, 0, 10, 10]], [0])]
    answer = [found([[20, 20, 30, 30], [0, 0, 10, 7]], [0, 0], [0.9, 0.8])]
    ap = average_precision(truth, answer, ["a"], [SIZE], "bbox")
    assert ap.figures["AP50"] == pytest.approx(0.5)
    assert ap.figures["AP75"] == pytest.approx(0)
    assert ap.figures["AP"] == pytest.approx(0.5 * 5 / 10)
    assert ap.figures["APl"] is None
    assert ap.per_class == {"a": pytest.approx(0.25)}


def test_a_crowd_is_neither_found_nor_missed():
    truth = [objects_of([[0, 0, 10, 10], [20, 20, 60, 60]], [0, 0], crowd=[False, True])]
    answer = [found([[25, 25, 40, 40], [0, 0, 10, 10]], [0, 0], [0.9, 0.8])]
    assert average_precision(truth, answer, ["a"], [SIZE], "bbox").figures["AP"] == pytest.approx(1)


def scene(seed, images=12, classes=3):
    rng = np.random.default_rng(seed)
    truth, answers = [], []
    for image in range(images):
        corner = rng.integers(0, 30, (int(rng.integers(0, 5)), 2)) if image else np.zeros((0, 2))
        boxes = np.concatenate([corner, corner + rng.integers(4, 34, corner.shape)], axis=1)
        labels = rng.integers(0, classes, len(boxes))
        masks = []
        for box in boxes.astype(int):
            mask = np.zeros(SIZE, np.uint8)
            mask[box[1] : box[3], box[0] : box[2]] = 1
            masks.append(mask)
        truth.append(
            objects_of(
                boxes.tolist(),
                labels.tolist(),
                (rng.random(len(boxes)) < 0.2).tolist(),
                masks=[encode(m) for m in masks],
            )
        )
        moved = np.concatenate([boxes + rng.integers(-4, 5, boxes.shape), rng.integers(0, 60, (2, 4))])
        moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 1)
        guesses = np.concatenate([labels, rng.integers(0, classes, 2)])
        shifted = [encode(np.roll(m, 2, axis=0)) for m in [*masks, np.zeros(SIZE), np.zeros(SIZE)]]
        answers.append(
            found(moved, guesses, rng.permutation(997)[: len(moved)] / 997 + image * 1e-5, tuple(shifted))
        )
    return truth, answers


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_the_bootstrap_score_is_pycocotools_on_duplicated_images(kind):
    truth, answers = scene(0)
    classes = ["a", "b", "c"]
    ap = average_precision(truth, answers, classes, [SIZE] * 12, kind)
    assert 0.05 < ap.figures["AP"] < 0.95
    assert ap.score(torch.arange(12)) == pytest.approx(ap.figures["AP"], abs=1e-12)
    for seed in range(3):
        picked = torch.randint(12, (12,), generator=torch.Generator().manual_seed(seed))
        rows = picked.tolist()
        again = average_precision(
            [truth[i] for i in rows], [answers[i] for i in rows], classes, [SIZE] * 12, kind
        )
        assert ap.score(picked) == pytest.approx(again.figures["AP"], abs=1e-9)
    assert np.isnan(ap.score(torch.zeros(5, dtype=torch.int64)))


def test_nothing_found_and_nothing_there():
    truth = [objects_of([[0, 0, 10, 10]], [0]), objects_of([], [])]
    nothing = [found([], [], []), found([], [], [])]
    ap = average_precision(truth, nothing, ["a", "b"], [SIZE] * 2, "bbox")
    assert ap.figures["AP"] == 0
    assert ap.score(torch.arange(2)) == 0
    assert ap.per_class == {"a": 0}
