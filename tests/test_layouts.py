"""Files of other libraries: written by the libraries themselves, loaded strictly, the same features.

Every test lets the library compute the features that it wrote the weights of. Where the library resizes
positions in another way than the weights' training did, our model is set to its way for the comparison, and
the report must say so.
"""

import argparse
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from nexus.errors import WeightsError
from nexus.models.vision import VisionTransformer
from nexus.weights import inspect, load, load_with_report
from nexus.weights.layouts import Resizing
from nexus.weights.loading import assemble

timm = pytest.importorskip("timm", reason='timm is not installed (pip install "nexus[dev]")')
transformers = pytest.importorskip("transformers", reason="transformers is not installed")

SIZES = [(56, 56), (98, 98), (28, 84)]
SHAPE = {"img_size": 56, "patch_size": 14, "embed_dim": 128, "depth": 2, "num_heads": 2}


def randomised(module: nn.Module) -> nn.Module:
    """Every parameter drawn, so that confusing any two would show; features stay of the order of one."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            factor = name.endswith(("gamma", "lambda1")) or ("norm" in name and name.endswith("weight"))
            parameter.normal_(
                1.0 if factor else 0.0, 0.02 if "proj" in name and parameter.ndim == 4 else 0.15
            )
    return module.eval()


@torch.no_grad()
def assert_same_features(model: VisionTransformer, library, resizing: Resizing) -> None:
    """Every token equal within 1e-5, when both resize alike; `library` maps images to all tokens."""
    mode = {"interpolate_offset": resizing.offset, "interpolate_antialias": resizing.antialias}
    alike = assemble(model.config.model_copy(update=mode), model.state_dict())
    for size in SIZES:
        images = torch.randn(2, 3, *size)
        expected = library(images)
        assert expected.std() > 0.3
        found = alike.norm(alike.forward_features(images)["x_prenorm"])
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        if size == SIZES[0]:
            found = model.norm(model.forward_features(images)["x_prenorm"])
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


# ---- transformers ------------------------------------------------------------------------------------


def huggingface(registers: int, gated: bool, classifier: bool = False) -> nn.Module:
    settings = {
        "hidden_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,  # not what the width alone would suggest
        "image_size": 56,
        "patch_size": 14,
        "use_swiglu_ffn": gated,
    }
    name = "Dinov2WithRegisters" if registers else "Dinov2"
    if registers:
        settings["num_register_tokens"] = registers
    config = getattr(transformers, f"{name}Config")(**settings)
    kind = "ForImageClassification" if classifier else "Model"
    return randomised(getattr(transformers, name + kind)(config))


def older_folder(model: nn.Module, folder: Path) -> Path:
    """As transformers 4 and 5 save it."""
    model.save_pretrained(folder)
    return folder


def newer_file(model: nn.Module, folder: Path) -> Path:
    """The state dict of transformers 5, with the model's config.json beside it."""
    model.config.save_pretrained(folder)
    save_file(model.state_dict(), folder / "weights.safetensors")
    return folder / "weights.safetensors"


def pickled_folder(model: nn.Module, folder: Path) -> Path:
    """As transformers saved it for years."""
    from safetensors.torch import load_file

    model.save_pretrained(folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


def split_folder(model: nn.Module, folder: Path) -> Path:
    model.save_pretrained(folder, max_shard_size="100KB")
    assert len(list(folder.glob("*.safetensors"))) > 3
    return folder


@pytest.mark.parametrize("write", [older_folder, newer_file, pickled_folder, split_folder])
@pytest.mark.parametrize(("registers", "gated"), [(0, False), (0, True), (3, False), (3, True)])
def test_models_of_transformers(tmp_path: Path, registers: int, gated: bool, write) -> None:
    twin = huggingface(registers, gated)
    model, report = load_with_report(write(twin, tmp_path))
    assert model.config.num_heads == 4
    resizing = Resizing(0.0, registers > 0)
    assert_same_features(model, lambda images: twin(images).last_hidden_state, resizing)
    assert (Resizing.of(model.config) == resizing) is (registers > 0)
    assert ("resized as the weights were trained" in str(report)) is (registers == 0)
    assert report.layout.endswith("Dinov2WithRegistersModel" if registers else "Dinov2Model")
    assert report.tensors == len(model.state_dict())


def test_the_mask_token_of_transformers(tmp_path: Path) -> None:
    twin = huggingface(3, False)
    model = load(older_folder(twin, tmp_path))
    masks, images = torch.rand(2, 16) < 0.5, torch.randn(2, 3, 56, 56)
    with torch.no_grad():
        found = model.norm(model.forward_features(images, masks)["x_prenorm"])
        expected = twin(images, bool_masked_pos=masks).last_hidden_state
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("registers", [0, 3])
def test_classification_models_of_transformers_give_their_backbone(tmp_path: Path, registers: int) -> None:
    twin = huggingface(registers, False, classifier=True)
    inner = twin.dinov2_with_registers if registers else twin.dinov2
    model, report = load_with_report(older_folder(twin, tmp_path))
    assert_same_features(model, lambda x: inner(x).last_hidden_state, Resizing(0.0, registers > 0))
    assert sorted(report.dropped) == ["classifier.bias", "classifier.weight"]


def test_dino_in_the_vit_model_of_transformers(tmp_path: Path) -> None:
    settings = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 56}
    config = transformers.ViTConfig(**settings, intermediate_size=512, patch_size=14, layer_norm_eps=1e-6)
    twin = randomised(transformers.ViTModel(config))
    for path in (older_folder(twin, tmp_path / "a"), newer_file(twin, tmp_path / "b")):
        model, report = load_with_report(path)
        assert not model.config.init_values
        assert report.filled
        assert sorted(report.dropped) == ["pooler.dense.bias", "pooler.dense.weight"]
        with torch.no_grad():
            images = torch.randn(2, 3, 56, 56)
            torch.testing.assert_close(model(images), twin(images).last_hidden_state, atol=1e-5, rtol=1e-5)


def test_the_preprocessor_beside_a_model_is_read(tmp_path: Path) -> None:
    folder = older_folder(huggingface(0, False), tmp_path)
    looks = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    (folder / "preprocessor_config.json").write_text(json.dumps(looks))
    assert load(folder).normalization == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert inspect(folder)["heads"] == 4


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ({"layer_norm_eps": 1e-5}, "layer_norm_eps is 1e-05"),
        ({"num_attention_heads": 5}, "embed_dim=128 cannot be shared evenly"),
    ],
)
def test_settings_that_compute_something_else_are_refused(tmp_path: Path, change: dict, match: str) -> None:
    folder = older_folder(huggingface(0, False), tmp_path)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, **change}))
    with pytest.raises(WeightsError, match=match):
        load(folder)


def test_broken_splits_are_refused(tmp_path: Path) -> None:
    folder = split_folder(huggingface(0, False), tmp_path)
    part, other = sorted(folder.glob("*.safetensors"))[:2]
    with pytest.raises(WeightsError, match=r"part 1 of .*pass the folder"):
        load(part)
    index = folder / "model.safetensors.index.json"
    assert load(index).config == load(folder).config
    values = json.loads(index.read_text())
    held = part.read_bytes()
    part.write_bytes(other.read_bytes())
    with pytest.raises(WeightsError, match=rf"{part.name} lacks .*which {index.name} promises"):
        load(folder)
    part.write_bytes(held)
    for weight_map, match in (
        ({"a": "../secret.bin"}, "no file beside it"),
        ({}, "no weight_map"),
        (3, "no w"),
        (dict(list(values["weight_map"].items())[1:]), "does not list"),
    ):
        index.write_text(json.dumps({**values, "weight_map": weight_map}))
        with pytest.raises(WeightsError, match=match):
            load(folder)
    index.write_text(json.dumps(values))
    part.unlink()
    with pytest.raises(WeightsError, match="cannot read"):
        load(folder)


# ---- timm --------------------------------------------------------------------------------------------


def timm_model(name: str = "vit_small_patch14_dinov2", **changes) -> nn.Module:
    """Two heads of 64, as shapes suggest."""
    settings = {"img_size": 56, "embed_dim": 128, "depth": 2, "num_heads": 2, "num_classes": 0}
    return randomised(timm.create_model(name, dynamic_img_size=True, **{**settings, **changes}))


GIANT = {"name": "vit_giant_patch14_dinov2", "mlp_ratio": 5.375}  # gate and value of 344 each
SPLIT = {"mlp_layer": timm.layers.SwiGLU, "mlp_ratio": 2.0, "act_layer": nn.SiLU}

TIMM = {
    "plain": {},
    "reg4": {"name": "vit_small_patch14_reg4_dinov2"},
    "registers with positions": {"reg_tokens": 2},
    "no position for CLS": {"no_embed_class": True},
    "packed SwiGLU": GIANT,
    "packed SwiGLU, reg4": {**GIANT, "name": "vit_giant_patch14_reg4_dinov2"},
    "split SwiGLU": SPLIT,
    "no layer scale": {"init_values": 0.0},
    "no layer scale, packed SwiGLU": {**GIANT, "init_values": 0.0},
    "no bias of q, k, v": {"qkv_bias": False},
}


@pytest.mark.parametrize("case", TIMM)
def test_models_of_timm(tmp_path: Path, case: str) -> None:
    twin = timm_model(**TIMM[case])
    save_file(twin.state_dict(), tmp_path / "model.safetensors")
    model, report = load_with_report(tmp_path / "model.safetensors")
    if case == "registers with positions":  # timm itself cannot resize such a table sensibly
        with torch.no_grad():
            images = torch.randn(2, 3, 56, 56)
            found = model.norm(model.forward_features(images)["x_prenorm"])
            torch.testing.assert_close(found, twin.forward_features(images), atol=1e-5, rtol=1e-5)
    else:
        assert_same_features(model, twin.forward_features, Resizing(0.0, True))
    assert report.filled == ("mask_token is not in the file: zeros (only training with masks uses it)",)
    assert "mask_token is not in the file" in str(report)
    assert not model.mask_token.any()
    assert report.tensors == len(model.state_dict()) - 1
    assert bool(model.config.init_values) is ("no layer scale" not in case)


def test_timm_checkpoints_with_classifier_and_averaged_weights(tmp_path: Path) -> None:
    twin = timm_model(num_classes=3)
    student = {key: value + 1 for key, value in twin.state_dict().items()}
    content = {
        "state_dict": student,
        "state_dict_ema": {f"module.{key}": value for key, value in twin.state_dict().items()},
        "args": argparse.Namespace(lr=0.1, model="x"),
        "epoch": 3,
    }
    torch.save(content, tmp_path / "last.pth.tar")
    (tmp_path / "last.pth.tar").rename(tmp_path / "last.pth")
    model, report = load_with_report(tmp_path / "last.pth")
    assert_same_features(model, twin.forward_features, Resizing(0.0, True))
    assert report.dropped == ("head.weight", "head.bias")
    other = load(tmp_path / "last.pth", encoder="student")
    torch.testing.assert_close(other.norm.bias, model.norm.bias + 1)


# ---- DINO (2021), iBOT, lightly ----------------------------------------------------------------------


def head() -> dict[str, Tensor]:
    return {"head.mlp.0.weight": torch.zeros(4, 4), "head.last_layer.weight_v": torch.zeros(4, 4)}


def prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in state.items()}


def test_dino_of_2021(tmp_path: Path) -> None:
    """The architecture is timm's plain one, which computes the features."""
    twin = timm_model("vit_small_patch16_224", patch_size=14)
    state = twin.state_dict()
    full = {
        "teacher": prefixed({**prefixed(state, "backbone."), **head()}, ""),
        "student": prefixed(
            {**prefixed({k: v + 1 for k, v in state.items()}, "backbone."), **head()}, "module."
        ),
        "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 0.1}]},
        "epoch": 100,
        "args": argparse.Namespace(arch="vit_small", lr=5e-4),
        "dino_loss": {"center": torch.zeros(1, 4)},
        "fp16_scaler": None,
    }
    for name, content in (("backbone.pth", state), ("checkpoint.pth", full)):
        torch.save(content, tmp_path / name)
        model, report = load_with_report(tmp_path / name)
        assert_same_features(model, twin.forward_features, Resizing(0.0, True))
        assert Resizing.of(model.config) == Resizing(0.1, False)
        assert "DINO (2021)" in report.layout
        assert report.filled
        assert len(report.dropped) == (2 if content is full else 0)
    student = load(tmp_path / "checkpoint.pth", encoder="student")
    torch.testing.assert_close(student.norm.bias, model.norm.bias + 1)


def test_the_mask_token_of_ibot_is_kept(tmp_path: Path) -> None:
    state = timm_model("vit_small_patch16_224", patch_size=14).state_dict()
    token = torch.randn(1, 128)
    torch.save({"state_dict": {**state, "masked_embed": token}}, tmp_path / "ibot.pth")
    model, report = load_with_report(tmp_path / "ibot.pth")
    assert torch.equal(model.mask_token, token)
    assert report.filled == ()
    assert "iBOT" in report.layout


@pytest.mark.parametrize("registers", [0, 4])
def test_backbones_of_lightly(tmp_path: Path, registers: int) -> None:
    modules = pytest.importorskip("lightly.models.modules", reason="lightly is not installed")
    names = {0: "vit_small_patch14_dinov2", 4: "vit_small_patch14_reg4_dinov2"}

    class Training(nn.Module):
        """As lightly's DINOv2 example holds its networks."""

        def __init__(self) -> None:
            super().__init__()
            for encoder in ("student", "teacher"):
                wrapped = modules.MaskedVisionTransformerTIMM(
                    vit=timm_model(names[registers]),
                    antialias=False,
                    weight_initialization="skip",
                    pos_embed_initialization="skip",
                )
                self.add_module(f"{encoder}_backbone", randomised(wrapped))
            self.teacher_head = nn.Linear(4, 4)

    training = Training()
    torch.save({"state_dict": training.state_dict(), "epoch": 2}, tmp_path / "last.ckpt")
    save_file(training.teacher_backbone.state_dict(), tmp_path / "backbone.safetensors")
    images = torch.randn(2, 3, 56, 56)
    for name, encoder in (
        ("last.ckpt", "teacher"),
        ("last.ckpt", "student"),
        ("backbone.safetensors", "teacher"),
    ):
        model, report = load_with_report(tmp_path / name, encoder=encoder)
        twin = getattr(training, f"{encoder}_backbone")
        with torch.no_grad():
            found = model.norm(model.forward_features(images)["x_prenorm"])
            torch.testing.assert_close(found, twin.encode(images), atol=1e-5, rtol=1e-5)
        assert torch.equal(model.mask_token, twin.mask_token[0])
        assert "lightly" in report.layout
        assert report.filled == ()


# ---- numbers and shapes that are refused -------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_point_numbers_are_loaded_as_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    state = {key: value.to(dtype) for key, value in timm_model().state_dict().items()}
    save_file(state, tmp_path / "x.safetensors")
    model, report = load_with_report(tmp_path / "x.safetensors")
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}
    assert torch.equal(model.norm.bias, state["norm.bias"].float())
    assert f"stored as {report.dtype}, loaded as float32" in str(report)


@pytest.mark.parametrize(
    ("value", "match"),
    [
        (torch.zeros(128, dtype=torch.int8), "norm.bias is of type int8"),
        (torch.zeros(128, dtype=torch.float8_e4m3fn), "norm.bias is of type float8_e4m3fn"),
        (torch.zeros(128).to_sparse(), "sparse"),
        (torch.zeros(128, device="meta"), "holds no numbers"),
    ],
    ids=["int8", "float8", "sparse", "meta"],
)
def test_tensors_that_mean_nothing_here_are_refused(tmp_path: Path, value: Tensor, match: str) -> None:
    torch.save({**timm_model().state_dict(), "norm.bias": value}, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=match):
        load(tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"depth": 10**12}, "depth 1000000000000"),
        ({"img_size": 10**12}, "cannot be built"),
        ({"embed_dim": 2 * 10**12}, "cannot be built"),
        ({"mlp_ratio": 1e300}, "cannot be built"),
    ],
)
def test_absurd_descriptions_are_refused_at_once(tmp_path: Path, change: dict, match: str) -> None:
    save_file(timm_model().state_dict(), tmp_path / "model.safetensors")
    absurd = {"format": "nexus", "architecture": {**SHAPE, **change}}
    (tmp_path / "config.json").write_text(json.dumps(absurd))
    with pytest.raises(WeightsError, match=match):
        load(tmp_path)


@pytest.mark.parametrize("key", ["encoder.layer.1.attention.attention.key.weight", "layernorm.bias"])
def test_a_missing_tensor_of_transformers_is_named(tmp_path: Path, key: str) -> None:
    from safetensors.torch import load_file

    folder = older_folder(huggingface(0, False), tmp_path)
    state = load_file(folder / "model.safetensors")
    del state[key]
    save_file(state, folder / "model.safetensors")
    with pytest.raises(WeightsError, match=r"missing \((blocks.1.attn.qkv.weight|norm.bias)\)"):
        load(folder)


def state_of_timm_with_registers() -> dict[str, Tensor]:
    return timm_model("vit_small_patch14_reg4_dinov2", depth=1).state_dict()


def state_of_lightly() -> dict[str, Tensor]:
    return {"mask_token": torch.zeros(1, 1, 128), **prefixed(state_of_timm_with_registers(), "vit.")}


def state_of_timm_with_split_swiglu() -> dict[str, Tensor]:
    return timm_model(**SPLIT, depth=1).state_dict()


def state_of_transformers() -> dict[str, Tensor]:
    return {key: value for key, value in huggingface(3, True).state_dict().items() if ".layer.1." not in key}


@pytest.mark.parametrize(
    "make",
    [state_of_timm_with_registers, state_of_lightly, state_of_timm_with_split_swiglu, state_of_transformers],
)
def test_any_tensor_of_a_wrong_shape_is_one_clear_error(tmp_path: Path, make) -> None:
    state = make()
    path = tmp_path / "x.safetensors"
    save_file(state, path)
    load(path)
    for key in state:
        for shape in ((), (0,), (3,), (2, 2), (1, 5, 7), (2, 1, 128), (1, 1, 1, 1)):
            save_file({**state, key: torch.zeros(shape)}, path)
            with pytest.raises(WeightsError):
                load(path)


def test_the_same_tensor_twice_is_refused(tmp_path: Path) -> None:
    state = timm_model().state_dict()
    torch.save({**state, "module.norm.bias": torch.ones(128)}, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=r"holds norm\.bias twice"):
        load(tmp_path / "x.pth")
