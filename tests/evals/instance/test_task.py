"""The detector: what it is shown, and whether it learns drawn shapes and no noise."""

import json

import numpy as np
import pytest
import torch

from nexus.evals.context import EvalContext
from nexus.evals.instance.average_precision import Detections
from nexus.evals.instance.canvas import canvas, target
from nexus.evals.instance.config import InstanceConfig
from nexus.evals.instance.detector import Detector
from nexus.evals.instance.opening import open_objects
from nexus.evals.instance.pictures import detection_sheet, shown_rows
from nexus.evals.instance.scale import Scale
from nexus.evals.registry import task_named
from nexus.features import View
from nexus.models.vision import VisionTransformer
from tests.evals.instance import drawn

TINY = {"grid": 8, "width": 16, "box_width": 32, "proposals": 40, "resamples": 20}


def measured(spec, patch=8, **settings):
    torch.manual_seed(0)
    model = VisionTransformer(img_size=64, patch_size=patch, embed_dim=24, depth=1, num_heads=2).eval()
    context = EvalContext(backbone=model, data=spec, view=View())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    result = task_named("instance").run(context, InstanceConfig(**{**TINY, **settings}))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    return result


@pytest.mark.parametrize("patch", [8, 14, 16])
def test_objects_stay_where_they_are(tmp_path, patch):
    """A mirrored target lies on the mirrored object, whatever the patch."""
    train, _, _ = open_objects(drawn.coco(tmp_path))
    shown = canvas(train.images, 0, 8, patch)
    assert shown.pixels.shape == (3, 8 * patch, 8 * patch)
    assert shown.frame == (128, 128)
    plain, mirrored = (target(train.objects[0], shown, side, True) for side in (False, True))
    torch.testing.assert_close(plain["boxes"], torch.from_numpy(train.objects[0].boxes) * 2)
    for one in (plain, mirrored):
        rows, cols = one["masks"][0].nonzero(as_tuple=True)
        left, top, right, bottom = one["boxes"][0]
        assert abs(cols.min() - left) <= 3
        assert abs(cols.max() - right) <= 3
        assert abs(rows.min() - top) <= 3
        assert abs(rows.max() - bottom) <= 3


@pytest.mark.parametrize("settings", [{}, {"finetune": True}, {"patch": 14}])
def test_a_few_steps_give_an_entry_and_pictures(tmp_path, settings):
    (tmp_path / "c").mkdir()
    root = drawn.coco(tmp_path / "c", train=3, test=3)
    (root / "val2017" / "0001.png").write_bytes(b"no image")
    result = measured(root, min_steps=2, epochs=1, min_score=0.0, **settings)
    assert result.metric == "mask AP"
    assert list(result.parts) == ["box"]
    assert result.unreadable == ("0001.png",)
    assert len(result.names) == 2
    assert result.score(torch.arange(2)) == pytest.approx(result.value)
    json.dumps(dict(result.details))
    (picture,) = result.pictures()
    assert picture.image.width > 760


def test_boxes_only_has_no_mask_ap(tmp_path):
    result = measured(drawn.pack(tmp_path / "p"), min_steps=2, epochs=1)
    assert result.metric == "box AP"
    assert not result.parts
    assert result.resamples == 20


def test_what_is_left_out_follows_the_device():
    """And what is asked for stands on either."""
    cpu, gpu = (Scale.of(InstanceConfig(width=48), torch.device(name)) for name in ("cpu", "cuda"))
    assert cpu.width == gpu.width == 48
    assert cpu.proposals < gpu.proposals
    assert cpu.steps(InstanceConfig(), 100_000) < gpu.steps(InstanceConfig(), 100_000)
    assert Scale.of(InstanceConfig(max_steps=7), torch.device("cpu")).steps(InstanceConfig(), 10) == 7


@pytest.mark.parametrize("finest", [1, 2, 4])
def test_levels_and_their_anchors(finest):
    """Maps from `finest` cells a patch to half a cell and a quarter, and as many sizes of anchors."""
    scale = Scale.of(InstanceConfig(width=8, box_width=8, finest=finest), torch.device("cpu"))
    detector = Detector(6, 2, True, InstanceConfig(grid=8), scale).eval()
    maps = torch.randn(1, 6, 8, 8)
    sides = [level.shape[-1] for level in detector.pyramid(maps).values()]
    assert sides == [8 * finest // 2**i for i in range(len(sides))]
    assert sides[-1] == 2
    assert len(detector.proposals.anchor_generator.sizes) == len(sides)
    (found,), _ = detector(maps, [(128, 128)])
    assert found["masks"].shape[1:] == (1, 28, 28)


def test_an_image_without_a_sure_detection_shows_the_best_ones(tmp_path):
    data, _, _ = open_objects(drawn.coco(tmp_path))
    box = np.tile(np.array([[4, 4, 30, 30]], dtype=np.float32), (9, 1))
    unsure, sure = (
        Detections(box, np.zeros(9, dtype=np.int64), np.linspace(top, 0.1, 9, dtype=np.float32))
        for top in (0.4, 0.6)
    )
    assert shown_rows(unsure) == [0, 1, 2, 3, 4]
    assert shown_rows(sure) == [0, 1]
    none = Detections(box[:0], np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32))
    assert detection_sheet(data, [none], [0]).height > 100


@pytest.mark.slow
def test_drawn_shapes_are_learned_and_noise_is_not(tmp_path):
    settings = {"min_steps": 150, "epochs": 1, "learning_rate": 2e-3}
    for name in ("shapes", "noise"):
        (tmp_path / name).mkdir()
    learned = measured(drawn.coco(tmp_path / "shapes", 24, 10, masks=False), **settings)
    noise = measured(drawn.coco(tmp_path / "noise", 24, 10, masks=False, noise=True), **settings)
    assert learned.details["AP50"] > 0.3
    assert noise.details["AP50"] < 0.1
