"""The detector: what it is shown, and whether it learns drawn shapes and no noise."""

import json

import pytest
import torch

from nexus.evals.context import EvalContext
from nexus.evals.instance.canvas import canvas, target
from nexus.evals.instance.config import InstanceConfig
from nexus.evals.instance.opening import open_objects
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


@pytest.mark.slow
def test_drawn_shapes_are_learned_and_noise_is_not(tmp_path):
    settings = {"min_steps": 150, "epochs": 1, "learning_rate": 2e-3}
    for name in ("shapes", "noise"):
        (tmp_path / name).mkdir()
    learned = measured(drawn.coco(tmp_path / "shapes", 24, 10, masks=False), **settings)
    noise = measured(drawn.coco(tmp_path / "noise", 24, 10, masks=False, noise=True), **settings)
    assert learned.details["AP50"] > 0.3
    assert noise.details["AP50"] < 0.1
