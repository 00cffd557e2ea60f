"""Exported files against the model, in the runtime that they are for."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.transforms.functional import to_pil_image

import nexus
from nexus.data.batch import normalize
from nexus.errors import ConfigError, ExportError
from nexus.exporting import ExportResult, formats
from nexus.exporting.graph import ExportGraph
from nexus.exporting.photos import photos
from nexus.models.vision import VisionTransformer, architecture, build_backbone
from nexus.weights import save_backbone
from tests.exporting.models import lively

EVERYTHING = "cls,patches,mean_patch,patch_map,layer:0,cls:0"
FILES = {"onnx": "a.onnx", "torch_export": "a.pt2", "torchscript": "a.pt"}
FIVE = [(1, 40, 40), (2, 24, 72), (3, 64, 48), (1, 16, 16), (2, 104, 40)]
"""Shapes that no export traces: 40 × 56 is traced."""


def run_onnx(path: Path, images: np.ndarray, names: list[str] | None = None) -> list[np.ndarray]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(names, {"images": images})


def worst(result: ExportResult) -> float:
    return min(check.cosine for check in result.checks)


BARE = {"init_values": None, "in_chans": 5, "depth": 1}
"""Without layer scale, and of images with five channels."""


@pytest.mark.parametrize(
    ("format", "name", "changes"),
    [
        ("onnx", "vit_tiny_patch8", {}),
        ("onnx", "vit_tiny_patch8_reg4_swiglu", BARE),
        ("torch_export", "vit_tiny_patch8_reg4_swiglu", BARE),
        ("torchscript", "vit_tiny_patch8", {}),
        ("torchscript", "vit_tiny_patch8_reg4_swiglu", BARE),
    ],
)
def test_any_batch_and_size(format: str, name: str, changes: dict[str, Any], tmp_path: Path) -> None:
    model = lively(name, **changes)
    outputs = f"{EVERYTHING},registers" if "reg" in name else EVERYTHING
    result = nexus.export(model, tmp_path / FILES[format], format=format, outputs=outputs, shapes=FIVE)
    assert result.verified
    assert [check.shape for check in result.checks if check.output == "cls"] == FIVE
    assert worst(result) > 1 - 1e-6
    assert max(check.max_error for check in result.checks) < 1e-4
    assert result.blind == ()


def test_onnx_by_hand(tmp_path: Path) -> None:
    """The same comparison without any code of ours on the side of the file."""
    model = lively("vit_tiny_patch4_reg2", depth=1)
    nexus.export(model, tmp_path / "a.onnx", outputs=["patches", "registers", "cls"], shapes=[(1, 16, 16)])
    for batch, height, width in ((1, 20, 20), (3, 8, 44), (2, 40, 12)):
        images = torch.randn(batch, 3, height, width)
        with torch.no_grad():
            wanted = model.forward_features(images)
        patches, registers, cls = run_onnx(
            tmp_path / "a.onnx", images.numpy(), ["patches", "registers", "cls"]
        )
        np.testing.assert_allclose(patches, wanted["x_norm_patchtokens"], atol=2e-5)
        np.testing.assert_allclose(registers, wanted["x_norm_regtokens"], atol=2e-5)
        np.testing.assert_allclose(cls, wanted["x_norm_clstoken"], atol=2e-5)


@pytest.mark.parametrize("outputs", ["cls,patches", "cls"])
@pytest.mark.parametrize("change", [{"interpolate_offset": 0.0}, {"interpolate_antialias": True}])
def test_the_wrong_position_mode_is_refused(
    change: dict[str, Any], outputs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check can fail: the mistake that exporters make most often is caught, and nothing is left."""
    model = lively()

    class Mistaken(ExportGraph):
        def __init__(self, backbone: VisionTransformer, *args: Any, **kwargs: Any) -> None:
            backbone.config = backbone.config.model_copy(update=change)
            super().__init__(backbone, *args, **kwargs)

    monkeypatch.setattr("nexus.exporting.exporter.ExportGraph", Mistaken)
    with pytest.raises(ExportError, match="does not compute what the model does, so it was") as error:
        nexus.export(model, tmp_path / "a.pt", format="torchscript", outputs=outputs, shapes=FIVE)
    assert list(tmp_path.iterdir()) == []
    result = error.value.result
    assert isinstance(result, ExportResult)
    own_grid = [check for check in result.checks if check.shape == FIVE[0]]
    assert min(check.cosine for check in own_grid) > 1 - 1e-9, "at its own grid no mode is used"
    assert worst(result) < (0.98 if "patches" in outputs else 0.99999)


def test_a_fixed_size_of_pixels(tmp_path: Path) -> None:
    """Positions baked in, bytes in, normalised inside; another size does not run."""
    model = lively("vit_tiny_patch8_reg4", depth=1)
    model.normalization = ((0.4, 0.5, 0.6), (0.2, 0.3, 0.25))  # type: ignore[assignment]
    result = nexus.export(model, tmp_path / "a.onnx", size="24,56", normalize="uint8", outputs="cls")
    assert worst(result) > 1 - 1e-6
    pixels = torch.randint(0, 256, (2, 3, 24, 56), dtype=torch.uint8)
    mean, std = (torch.tensor(values) for values in model.normalization)
    with torch.no_grad():
        wanted = model(normalize(pixels, mean, std))[:, 0]
    (cls,) = run_onnx(tmp_path / "a.onnx", pixels.numpy())
    np.testing.assert_allclose(cls, wanted, atol=2e-5)
    with pytest.raises(Exception, match="invalid dimensions"):
        run_onnx(tmp_path / "a.onnx", pixels.transpose(2, 3).numpy())


def test_torchscript_of_a_fixed_size_refuses_the_turned_one(tmp_path: Path) -> None:
    """As many patches, but elsewhere: adding the positions must not go through."""
    nexus.export(lively(), tmp_path / "a.pt", format="torchscript", size="24,56", normalize="float")
    with pytest.warns(FutureWarning):
        loaded = torch.jit.load(str(tmp_path / "a.pt"))
    assert loaded(torch.zeros(1, 3, 24, 56))[1].shape == (1, 21, 64)
    with pytest.raises(RuntimeError):
        loaded(torch.zeros(1, 3, 56, 24))


@pytest.mark.parametrize("dynamic", ["none", "hw", "batch"])
def test_what_stays_open(dynamic: str, tmp_path: Path) -> None:
    model = lively(depth=1)
    nexus.export(model, tmp_path / "a.pt2", format="torch_export", dynamic=dynamic, outputs="cls")
    program = torch.export.load(tmp_path / "a.pt2").module()
    for batch, side in ((1, 40), (2, 40), (1, 64)):
        images = torch.zeros(batch, 3, side, side)
        open_batch, open_size = dynamic == "batch", dynamic == "hw"
        if (batch == 1 or open_batch) and (side == 40 or open_size):
            assert program(images)[0].shape == (batch, 64)
        else:
            with pytest.raises((AssertionError, RuntimeError)):
                program(images)


def test_remaining_pixels_are_dropped_and_small_images_refused(tmp_path: Path) -> None:
    nexus.export(lively(depth=1), tmp_path / "a.pt2", format="torch_export", outputs="patch_map")
    program = torch.export.load(tmp_path / "a.pt2").module()
    images = torch.randn(1, 3, 45, 31)
    (found,), (wanted,) = program(images), program(images[:, :, :40, :24].contiguous())
    torch.testing.assert_close(found, wanted)
    with pytest.raises(AssertionError, match="Guard failed"):
        program(images[:, :, :8])


# -- half precision -------------------------------------------------------------------------------


def test_half_precision(tmp_path: Path) -> None:
    import onnx

    model = lively(depth=1)
    result = nexus.export(model, tmp_path / "a.onnx", precision="fp16", shapes=FIVE[:2])
    assert result.keep == ()
    assert 0.999 < worst(result) < 1 - 1e-9
    graph = onnx.load(tmp_path / "a.onnx").graph
    kinds = {tensor.data_type for tensor in graph.initializer if np.prod(tensor.dims) > 64 * 64}
    assert kinds == {onnx.TensorProto.FLOAT16}
    assert graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT


@pytest.mark.parametrize("format", ["onnx", "torchscript"])
def test_sums_that_overflow_half_precision_stay_in_float32(
    format: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Some tokens of large released models are huge; here, between two blocks, beyond float16."""
    model = lively(init_values=None)
    with torch.no_grad():
        for block, bias in zip(model.blocks, (4e4, -4e4), strict=True):
            block.attn.proj.bias[0] = block.mlp.fc2.bias[0] = bias
        # As in trained models, the norms that see the huge channel leave it out and lift the others.
        for norm in (model.blocks[0].norm2, model.blocks[1].norm1, model.blocks[1].norm2):
            norm.weight.fill_(3000)
            norm.weight[0] = 0
    result = nexus.export(model, tmp_path / FILES[format], format=format, precision="fp16", shapes=FIVE[:2])
    assert result.verified
    assert result.keep == ("norm", "softmax", "residual")
    assert "trying again with more in float32" in caplog.text
    assert json.loads((tmp_path / f"{FILES[format]}.json").read_text())["parts_in_fp32"] == list(result.keep)


def test_weights_beyond_half_precision_are_refused(tmp_path: Path) -> None:
    model = lively(depth=1)
    with torch.no_grad():
        model.blocks[0].mlp.fc2.bias[0] = 1e6
    with pytest.raises(ExportError, match="export with --precision fp32"):
        nexus.export(model, tmp_path / "a.pt", format="torchscript", precision="fp16", shapes=FIVE[:1])
    assert list(tmp_path.iterdir()) == []


# -- what lies beside and inside -------------------------------------------------------------------


def test_weights_in_a_second_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What happens above 2 GB, at a lower threshold; an export that fits removes the second file."""
    monkeypatch.setattr(formats, "EXTERNAL_ABOVE", 1000)
    model = lively("vit_giant_patch14", depth=1, embed_dim=64, num_heads=1, img_size=56)
    out = tmp_path / "a.onnx"
    result = nexus.export(model, out, outputs="cls", shapes=[(1, 28, 84)])
    assert [path.name for path in result.files] == ["a.onnx.data", "a.onnx.json", "a.onnx"]
    assert (tmp_path / "a.onnx.data").stat().st_size > out.stat().st_size
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for path in result.files:
        path.rename(moved / path.name)
    assert run_onnx(moved / "a.onnx", np.zeros((1, 3, 56, 56), np.float32))[0].shape == (1, 64)


def test_the_description_is_enough_to_use_the_file(tmp_path: Path) -> None:
    """Beside the file and inside it: a program that reads only JSON feeds the graph correctly."""
    import onnx

    model = lively("vit_tiny_patch8_reg4", depth=1)
    save_backbone(
        model,
        tmp_path / "run",
        provenance={"licence": "CC0", "run": "here"},
        mean=(0.4, 0.5, 0.6),
        std=(0.2, 0.3, 0.25),
    )
    nexus.export(tmp_path / "run", tmp_path / "a.onnx", outputs="cls,patch_map,registers", shapes=FIVE[1:2])
    said = json.loads((tmp_path / "a.onnx.json").read_text())
    inside = {p.key: p.value for p in onnx.load(tmp_path / "a.onnx").metadata_props}["nexus"]
    assert json.loads(inside) == {key: value for key, value in said.items() if key != "verification"}
    assert said["licence"] == "CC0"
    assert said["provenance"]["run"] == "here"
    assert said["verification"]["verified"] is True
    assert set(said["verification"]["worst"]) == {"cls", "patch_map", "registers"}
    axes = said["input"]
    assert (axes["layout"], axes["colour"], axes["multiple_of"]) == ("NCHW", "RGB", 8)
    assert axes["shape"] == ["batch", 3, "height", "width"]
    how = said["preprocessing"]
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 48)).astype(np.float32)
    mean, std = (np.array(how[key], np.float32).reshape(1, 3, 1, 1) for key in ("mean", "std"))
    found = run_onnx(tmp_path / "a.onnx", (pixels / 255 - mean) / std, [o["name"] for o in said["outputs"]])
    names = {"batch": 2, "height": 32, "width": 48}
    for output, values in zip(said["outputs"], found, strict=True):
        sizes = [eval(str(size), {}, names) for size in output["shape"]]
        assert list(values.shape) == sizes
    loaded = nexus.load(tmp_path / "run")
    normalized = normalize(torch.from_numpy(pixels).byte(), *(torch.tensor(v) for v in loaded.normalization))
    with torch.no_grad():
        np.testing.assert_allclose(found[0], loaded(normalized)[:, 0], atol=2e-5)


@pytest.mark.parametrize("format", ["torch_export", "torchscript"])
def test_the_description_inside_the_other_formats(format: str, tmp_path: Path) -> None:
    out = tmp_path / FILES[format]
    nexus.export(lively(depth=1), out, format=format, size=40)
    extra: dict[str, Any] = {"description.json": ""}
    if format == "torch_export":
        torch.export.load(out, extra_files=extra)
    else:
        with pytest.warns(FutureWarning):
            torch.jit.load(str(out), _extra_files=extra)
    assert json.loads(extra["description.json"])["input"]["shape"] == ["batch", 3, 40, 40]


def test_without_the_runtime_nothing_is_claimed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = formats.importlib.util.find_spec
    monkeypatch.setattr(
        formats.importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else real(name)
    )
    result = nexus.export(lively(depth=1), tmp_path / "a.onnx", size=40)
    assert not result.verified
    assert result.checks == ()
    assert json.loads((tmp_path / "a.onnx.json").read_text())["verification"]["verified"] is False


def test_without_the_exporters_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'needs onnx and onnxscript, .*; pip install "nexus\[export\]"'):
        nexus.export(lively(depth=1), tmp_path / "a.onnx")


def test_a_model_that_is_no_backbone(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a Linear is no backbone of nexus"):
        nexus.export(torch.nn.Linear(2, 2), tmp_path / "a.onnx")


def test_mean_and_std_must_fit_the_channels(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="takes 5 channels but knows mean and std of 3"):
        nexus.export(lively(depth=1, in_chans=5), tmp_path / "a.onnx", normalize="uint8")


def test_features_that_never_change_are_reported(tmp_path: Path) -> None:
    """With fresh weights CLS is the same for every image; then the comparison says little."""
    torch.manual_seed(0)
    model = build_backbone(architecture("vit_tiny_patch8", depth=1, img_size=40))
    result = nexus.export(model.eval(), tmp_path / "a.pt", format="torchscript", shapes=FIVE)
    assert result.blind == ("cls",)


def test_a_failed_export_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "a.pt"
    out.write_bytes(b"old")

    def broken(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(formats, "write", broken)
    with pytest.raises(OSError, match="No space"):
        nexus.export(lively(depth=1), out, format="torchscript", size=40, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]
    assert out.read_bytes() == b"old"


def test_the_python_of_the_documentation_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And its preprocessing is that of `nexus.embed`."""
    model = lively(depth=1)
    nexus.export(model, tmp_path / "model.onnx", outputs="cls", shapes=FIVE[:1])
    image = to_pil_image(photos(None, 0, 1, 90, 70, 3)[0])
    image.save(tmp_path / "photo.jpg", quality=95)
    page = (Path(__file__).resolve().parents[2] / "docs" / "export.md").read_text()
    (block,) = (text for text in re.findall(r"```python\n(.*?)```", page, re.S) if "onnxruntime" in text)
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {}
    exec(compile(block, "docs/export.md", "exec"), scope)
    wanted = nexus.embed([tmp_path / "photo.jpg"], model, device="cpu").cls
    np.testing.assert_allclose(scope["cls"], wanted, atol=2e-5)
