"""`nexus convert`: round trips through every ecosystem, proof in the target's library, refusals."""

import importlib.util
import json
import os
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from torch import Tensor

import nexus
from nexus.cli import run
from nexus.data.batch import normalize
from nexus.data.transforms import EvalTransform
from nexus.errors import ConfigError, NexusError, RunError, WeightsError
from nexus.models.vision import VisionTransformer, architecture, build_backbone
from nexus.weights import load_with_report, save_backbone
from nexus.weights.comparison import BOUND, SizeCheck, check_size, pictures, sizes_of
from nexus.weights.layouts import huggingface

timm = pytest.importorskip("timm", reason='timm is not installed (pip install "nexus[dev]")')
transformers = pytest.importorskip("transformers", reason="transformers is not installed")

SMALL = {"img_size": 56, "patch_size": 14, "embed_dim": 48, "depth": 2, "num_heads": 3}
REGISTERS = {"num_register_tokens": 4, "interpolate_antialias": True, "interpolate_offset": 0.0}
MEAN, STD = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)

MODELS = {
    "mlp": {},
    "mlp, registers": REGISTERS,
    "swiglu": {"ffn_layer": "swiglufused"},
    "swiglu, registers": {"ffn_layer": "swiglufused", **REGISTERS},
    "three registers, patches of 8": {**REGISTERS, "num_register_tokens": 3, "patch_size": 8},
    "no layer scale, as DINO (2021)": {"init_values": None},
    "no biases": {"qkv_bias": False, "proj_bias": False, "ffn_bias": False},
    "five channels": {"in_chans": 5},
    "positions as transformers resizes them": {"interpolate_offset": 0.0},
}


def randomised(model: VisionTransformer) -> VisionTransformer:
    """Every parameter drawn; features stay of the order of one."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            factor = name.endswith("gamma") or ("norm" in name and name.endswith("weight"))
            std = 0.02 if name == "patch_embed.proj.weight" or parameter.ndim == 2 else 0.2
            parameter.normal_(1.0 if factor else 0.0, std)
    return model.eval()


def save(folder: Path, **changes) -> VisionTransformer:
    model = randomised(VisionTransformer(**{**SMALL, **changes}))
    provenance = {"step": 7, "licence": "CC0-1.0"}
    save_backbone(model, folder, provenance=provenance, mean=MEAN, std=STD)
    return model


def assert_equal(path: Path, model: VisionTransformer) -> None:
    """The same settings, the same bits, the same description."""
    again, report = load_with_report(path)
    assert again.config == model.config
    for key, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key
    assert report.filled == ()
    assert report.normalization == (MEAN, STD)
    assert report.described["licence"] == "CC0-1.0"
    assert report.described["provenance"]["step"] == 7


# ---- round trips and proof ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_through_every_ecosystem_and_back(tmp_path: Path, name: str) -> None:
    model = save(tmp_path / "start", **MODELS[name])
    stops = (("hf", "a"), ("timm", "b.safetensors"), ("timm", "c.pth"), ("hub", "d.pth"), ("nexus", "e"))
    source = tmp_path / "start"
    for to, out in stops:
        result = nexus.convert(source, to, tmp_path / out)
        source = tmp_path / out
        assert_equal(source, model)
        if to == "hub":
            assert (result.version, result.checks) == (None, ())
            assert "not verified in dinov2: not installed" in str(result)
        else:
            assert [(check.height, check.width) for check in result.checks] == sizes_of(model.config)
            assert all(max(check.cls, check.patches) <= 1e-5 and check.largest > 1 for check in result.checks)
            assert f"reopened in {result.version}" in str(result)
        different = (to == "timm" and "registers" not in name) or (
            to == "hf" and not model.num_register_tokens and model.config.interpolate_offset
        )
        assert bool(result.moves) is bool(different)
        if different:
            assert result.moves[0].patches == 0  # at the native size nothing is resized
            assert max(move.patches for move in result.moves) > 1e-3
    folders = [path.name for path in tmp_path.iterdir()]
    assert sorted(folders) == ["a", "b.safetensors", "c.json", "c.pth", "d.json", "d.pth", "e", "start"]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("dinov2_vits14", {}),
        ("dinov2_vits14_reg", {}),
        ("dinov2_vitb14", {"depth": 4}),
        ("dinov2_vitb14_reg", {}),
        ("dinov2_vitl14", {"depth": 2}),
        ("dinov2_vitl14_reg", {"depth": 2}),
        ("dinov2_vitg14", {"depth": 1}),
        ("dinov2_vitg14_reg", {"depth": 1}),
    ],
)
def test_the_released_sizes_through_every_ecosystem(tmp_path: Path, name: str, changes: dict) -> None:
    model = randomised(build_backbone(architecture(name, **changes)))
    save_backbone(model, tmp_path / "start", provenance={"step": 7, "licence": "CC0-1.0"}, mean=MEAN, std=STD)
    pictures(None)[0].save(tmp_path / "photo.png")
    source = tmp_path / "start"
    for to, out in (("hf", "a"), ("timm", "b.safetensors"), ("hub", "c.pth")):
        result = nexus.convert(source, to, tmp_path / out, images=tmp_path / "photo.png")
        assert sizes_of(model.config) == [(518, 518), (224, 224), (98, 98), (322, 238)]
        for check in result.checks:
            assert max(check.cls, check.patches) <= 1e-5 * max(1.0, check.largest), str(result)
        source = tmp_path / out
    assert_equal(source, model)


def test_libraries_open_what_was_written_as_the_command_says(tmp_path: Path) -> None:
    """The printed lines, run as a user would."""
    model = save(tmp_path / "start", **REGISTERS)
    images = torch.randn(2, 3, 42, 70)
    with torch.no_grad():
        expected = model.forward_features(images)["x_norm_clstoken"]
        line = nexus.convert(tmp_path / "start", "hf", tmp_path / "a").command
        twin = eval(line, {"transformers": transformers})
        torch.testing.assert_close(twin(images).pooler_output, expected, atol=1e-5, rtol=1e-5)
        line = nexus.convert(tmp_path / "start", "timm", tmp_path / "b.pth").command
        twin = eval(line, {"timm": timm}).eval()
        torch.testing.assert_close(twin.forward_features(images)[:, 0], expected, atol=1e-5, rtol=1e-5)
        assert twin.pretrained_cfg["mean"] == MEAN
        line = nexus.convert(tmp_path / "start", "nexus", tmp_path / "c").command
        twin = eval(line, {"nexus": nexus})
        torch.testing.assert_close(twin(images)[:, 0], expected)


def test_the_image_processor_of_transformers_does_as_our_evaluation(tmp_path: Path) -> None:
    save(tmp_path / "start")
    nexus.convert(tmp_path / "start", "hf", tmp_path / "a")
    pytest.importorskip("torchvision")
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "a", use_fast=False)
    image = pictures(None)[0].crop((0, 0, 300, 200))
    found = processor(images=image, return_tensors="pt")["pixel_values"]
    pixels = EvalTransform.for_size(56)(image)[None].contiguous()
    expected = normalize(pixels, torch.tensor(MEAN), torch.tensor(STD))
    assert found.shape == expected.shape
    assert (found - expected).abs().mean() < 0.02


def test_hub_files_hold_the_official_tensors_and_nothing_else(tmp_path: Path) -> None:
    model = save(tmp_path / "start")
    result = nexus.convert(tmp_path / "start", "hub", tmp_path / "out.pth")
    content = torch.load(tmp_path / "out.pth", weights_only=True)
    assert list(content) == list(model.state_dict())
    assert result.files == (tmp_path / "out.json", tmp_path / "out.pth")
    described = json.loads((tmp_path / "out.json").read_text())
    assert described["provenance"]["converted"]["from"] == "model.safetensors"
    assert described["licence"] == "CC0-1.0"


def test_released_shapes_open_by_their_hub_name(tmp_path: Path) -> None:
    from nexus.weights.targets import TARGETS

    config = architecture("dinov2_vitl14_reg", init_values=1e-5)
    line = TARGETS["hub"].command(Path("x.pth"), config, (MEAN, STD))
    assert line == (
        'model = torch.hub.load("facebookresearch/dinov2", "dinov2_vitl14_reg", pretrained=False); '
        "model.load_state_dict(torch.load('x.pth'))"
    )
    assert "img_size=224" in TARGETS["hub"].command(
        Path("x.pth"), architecture("vit_small_patch14"), (MEAN, STD)
    )
    assert "DinoVisionTransformer(img_size=224" in TARGETS["hub"].command(
        Path("x.pth"), architecture("vit_tiny_patch16"), (MEAN, STD)
    )


def test_files_for_others_say_who_made_them(tmp_path: Path) -> None:
    save(tmp_path / "start")
    nexus.convert(tmp_path / "start", "hf", tmp_path / "a")
    with safe_open(tmp_path / "a" / "model.safetensors", "pt") as file:
        header = file.metadata()
    assert header["format"] == "pt"
    described = json.loads(header["nexus"])
    assert (described["licence"], described["normalization"]["mean"]) == ("CC0-1.0", list(MEAN))
    mode = os.stat(tmp_path / "a" / "config.json").st_mode
    assert os.stat(tmp_path / "a" / "model.safetensors").st_mode == mode


def test_a_size_makes_the_target_exact_there(tmp_path: Path) -> None:
    """transformers has no offset of 0.1, but it does not need one where nothing is resized."""
    model = save(tmp_path / "start")
    result = nexus.convert(tmp_path / "start", "hf", tmp_path / "a", size=98)
    assert result.report.resized == ("pos_embed: 4×4 → 7×7 (bicubic)",)
    images = torch.randn(2, 3, 98, 98)
    twin = transformers.AutoModel.from_pretrained(tmp_path / "a")
    with torch.no_grad():
        torch.testing.assert_close(twin(images).last_hidden_state, model(images), atol=1e-5, rtol=1e-5)


def test_features_computed_by_the_target_after_training_in_it(tmp_path: Path) -> None:
    """A timm file that was changed and saved anew has no description, and what we kept does not hold."""
    save(tmp_path / "start", embed_dim=64, num_heads=1, **REGISTERS)
    nexus.convert(tmp_path / "start", "timm", tmp_path / "a.pth")
    state = torch.load(tmp_path / "a.pth", weights_only=True)
    state["cls_token"] += 1
    torch.save(state, tmp_path / "a.pth")
    model, _ = load_with_report(tmp_path / "a.pth")
    assert torch.equal(model.cls_token + model.pos_embed[:, :1], state["cls_token"])
    (tmp_path / "a.json").unlink()
    assert torch.equal(load_with_report(tmp_path / "a.pth")[0].cls_token, state["cls_token"])


# ---- a wrong file never gets its name ----------------------------------------------------------------


def test_a_difference_is_a_failure_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """q and k exchanged, both when writing and when reading back: only transformers can notice."""
    save(tmp_path / "start")
    rows = dict(huggingface.OLDER.inner)
    for leaf in ("weight", "bias"):
        q, k, v = rows[f"attn.qkv.{leaf}"]
        rows[f"attn.qkv.{leaf}"] = (k, v, q)
    wrong = huggingface.KeyTable(huggingface.OLDER.outer, rows, huggingface.OLDER.block)
    monkeypatch.setattr(huggingface, "OLDER", wrong)
    with pytest.raises(WeightsError, match=r"transformers .* computes other features.*56 × 56 px: CLS"):
        nexus.convert(tmp_path / "start", "hf", tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["start"]


@torch.no_grad()
def test_the_comparison_sees_rounding_and_a_single_weight(tmp_path: Path) -> None:
    """Differences of exactly 0 are usual, as all call one attention kernel; here are others."""
    model = save(tmp_path / "start", **REGISTERS)
    nexus.convert(tmp_path / "start", "hf", tmp_path / "a")
    twin = transformers.AutoModel.from_pretrained(tmp_path / "a").eval()
    mine = {value.data_ptr() for value in model.parameters()}
    assert not mine & {value.data_ptr() for value in twin.parameters()}

    def theirs(images: Tensor) -> Tensor:
        tokens = twin(images).last_hidden_state
        return torch.cat((tokens[:, :1], tokens[:, 5:]), dim=1)

    images = torch.randn(2, 3, 98, 98)
    twin.set_attn_implementation("eager")
    rounding = check_size(model, theirs, images)
    assert 0 < max(rounding.cls, rounding.patches) < 1e-5
    twin.get_parameter("encoder.layer.1.mlp.fc1.weight")[0, 0] += 0.1
    moved = check_size(model, theirs, images)
    assert min(moved.cls, moved.patches) > 1e-5
    assert not moved.passed


def test_a_file_that_does_not_read_back_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "start")
    right = huggingface.from_official
    monkeypatch.setattr(
        huggingface,
        "from_official",
        lambda tensors, config: {
            key: value + 1e-7 if key == "layernorm.bias" else value
            for key, value in right(tensors, config).items()
        },
    )
    with pytest.raises(WeightsError, match=r"does not read back the same \(norm\.bias\)"):
        nexus.convert(tmp_path / "start", "hf", tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["start"]


def test_a_file_that_the_library_refuses_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "start")
    monkeypatch.setattr(timm, "create_model", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(WeightsError, match=r"timm .* does not open what was written: division by zero"):
        nexus.convert(tmp_path / "start", "timm", tmp_path / "a.pth")
    assert [path.name for path in tmp_path.iterdir()] == ["start"]


def test_an_absent_library_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "start")
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "nexus.weights.targets.find_spec", lambda name: None if name == "timm" else found(name)
    )
    result = nexus.convert(tmp_path / "start", "timm", tmp_path / "a.pth")
    assert "not verified in timm: not installed" in str(result)
    assert result.moves  # how features move is known without it


@pytest.mark.parametrize(
    ("difference", "largest", "passed"), [(9e-6, 0.5, True), (2e-5, 1.0, False), (2e-5, 3.0, True)]
)
def test_the_bound_is_a_share_of_the_largest_feature(difference: float, largest: float, passed: bool) -> None:
    assert BOUND == 1e-5
    assert SizeCheck(56, 56, difference, 0.0, largest).passed is passed
    assert SizeCheck(56, 56, 0.0, difference, largest).passed is passed


# ---- refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("to", "out", "error", "match"),
    [
        ("onnx", "a", ConfigError, "unknown target 'onnx'"),
        ("hub", "a", ConfigError, r"must end with \.pth"),
        ("hub", "a.safetensors", ConfigError, r"must end with \.pth"),
        ("timm", "a.bin", ConfigError, r"must end with \.safetensors or \.pth"),
        ("hf", "a.safetensors", ConfigError, "writes a folder"),
        ("nexus", "start", RunError, "exists already; choose another --out"),
    ],
)
def test_what_cannot_be_written_is_refused(
    tmp_path: Path, to: str, out: str, error: type[NexusError], match: str
) -> None:
    save(tmp_path / "start")
    with pytest.raises(error, match=match):
        nexus.convert(tmp_path / "start", to, tmp_path / out)
    assert [path.name for path in tmp_path.iterdir()] == ["start"]


@pytest.mark.parametrize(
    ("to", "changes", "match"),
    [
        ("hf", {"ffn_layer": "identity"}, "without feed-forward layers"),
        ("timm", {"ffn_layer": "identity"}, "without feed-forward layers"),
        ("hf", {"mlp_ratio": 2.5}, r"whole numbers for mlp_ratio only, and this backbone has 2\.5"),
    ],
)
def test_what_a_target_cannot_hold_is_refused(tmp_path: Path, to: str, changes: dict, match: str) -> None:
    save(tmp_path / "start", **changes)
    with pytest.raises(WeightsError, match=match):
        nexus.convert(tmp_path / "start", to, tmp_path / ("a.pth" if to == "timm" else "a"))


def test_architectures_have_nothing_to_convert(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="there are no weights to convert"):
        nexus.convert("vit_tiny_patch16", "hf", tmp_path / "a")


def test_overwriting_replaces_every_file(tmp_path: Path) -> None:
    save(tmp_path / "start")
    model = save(tmp_path / "other", **REGISTERS)
    nexus.convert(tmp_path / "start", "hf", tmp_path / "a")
    with pytest.raises(RunError, match=r"config\.json exists already"):
        nexus.convert(tmp_path / "other", "hf", tmp_path / "a")
    nexus.convert(tmp_path / "other", "hf", tmp_path / "a", overwrite=True)
    assert_equal(tmp_path / "a", model)


# ---- pictures and command line -----------------------------------------------------------------------


def test_the_pictures_that_come_with_nexus_are_photographs() -> None:
    first, second = pictures(None)
    assert first.size == second.size == (512, 512)
    for picture in (first, second):
        assert len(picture.getcolors(512 * 512)) > 10_000
    assert first.tobytes() == pictures(None)[0].tobytes()


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = save(tmp_path / "start", **REGISTERS)
    Image.new("RGB", (80, 60), (200, 30, 30)).save(tmp_path / "red.png")
    words = ["convert", "--input", str(tmp_path / "start"), "--to", "hf", "--out", str(tmp_path / "a")]
    assert run([*words, "--images", str(tmp_path / "red.png")]) == 0
    said = capsys.readouterr().out
    assert "every tensor bit-equal" in said
    assert "56 × 56 px: CLS" in said
    assert "AutoModel.from_pretrained" in said
    assert_equal(tmp_path / "a", model)
    assert run(words) == 2
    assert "exists already" in capsys.readouterr().err


def test_a_folder_with_the_name_of_a_library_is_no_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dinov2").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    save(tmp_path / "start")
    assert nexus.convert(tmp_path / "start", "hub", tmp_path / "a.pth").version is None


def test_the_official_module_is_used_where_it_can_be_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in with the official interface; whether our features are official, golden values say."""
    package = tmp_path / "site" / "dinov2" / "models"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    (package / "__init__.py").touch()
    (package / "vision_transformer.py").write_text(
        "from nexus.models.vision import VisionTransformer\n"
        "class DinoVisionTransformer(VisionTransformer):\n"
        "    def __init__(self, *, block_chunks, **settings):\n"
        "        assert block_chunks == 0\n"
        "        super().__init__(**settings)\n"
        "    def forward(self, x, *, is_training):\n"
        "        assert is_training\n"
        "        return self.forward_features(x)\n"
    )
    monkeypatch.syspath_prepend(tmp_path / "site")
    save(tmp_path / "start", **REGISTERS)
    try:
        result = nexus.convert(tmp_path / "start", "hub", tmp_path / "a.pth")
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == "dinov2"]:
            del sys.modules[name]
    assert result.version == "dinov2"
    assert len(result.checks) == 4
