"""Full-size small models as ONNX, on photographs, at five sizes that were not traced; and a trained one."""

from pathlib import Path

import pytest

import nexus
from nexus import cli
from tests.exporting.models import lively

PHOTOS = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "imagenet-sample"
SHAPES = [(1, 518, 518), (2, 224, 224), (3, 98, 98), (1, 322, 238), (2, 168, 448)]


@pytest.mark.slow
@pytest.mark.skipif(not PHOTOS.is_dir(), reason="needs shared/data/imagenet-sample beside the checkout")
@pytest.mark.parametrize("name", ["vit_small_patch14", "vit_small_patch14_reg4"])
def test_small_models_on_photographs(name: str, tmp_path: Path) -> None:
    size = {"depth": 12, "embed_dim": 384, "num_heads": 6, "img_size": 518}
    model = lively(name, **size)
    out = tmp_path / "a.onnx"
    result = nexus.export(model, out, outputs="cls,patches,mean_patch,layer:5", images=PHOTOS, shapes=SHAPES)
    assert [check.shape for check in result.checks if check.output == "cls"] == SHAPES
    assert min(check.cosine for check in result.checks) >= 0.99999
    assert result.blind == ()


def test_a_trained_model_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    train = "train --recipe smoke --data synthetic:n=32,size=32,classes=4 --out run online_eval.every=0"
    assert cli.run(train.split()) == 0
    capfd.readouterr()
    export = "export --model run --format torchscript --out run.pt --outputs cls,patch_map,layer:1"
    assert cli.run(export.split()) == 0
    said = capfd.readouterr().out
    assert "run.pt in torch" in said
    assert "layer_1" in said
    assert "2 × 128 × 88" in said
    assert "verified: every cosine is at least 0.999999\nwritten: run.pt, run.pt.json\n" in said
