"""Models of timm and transformers with random weights: the same tokens as their own library gives."""

import json
import sys

import numpy as np
import pytest
import timm
import torch
import transformers as hf
from PIL import Image
from safetensors.torch import save_file

from nexus.embedding import embed, embed_images, load_backbone
from nexus.errors import ConfigError, WeightsError
from nexus.evals import evaluate
from nexus.features import Backbone, TokenBackbone, extract
from tests.evals.stubs import MemoryImages, TinyBackbone

SMALL = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 32,
    "patch_size": 8,
}


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(2, 3, 48, 32, generator=torch.Generator().manual_seed(5))


def parts(backbone: TokenBackbone, images: torch.Tensor):
    with torch.inference_mode():
        return backbone.forward_features(images)


# -- timm -------------------------------------------------------------------------------------------------


def test_timm_transformer_gives_its_own_tokens(images: torch.Tensor) -> None:
    backbone = load_backbone("timm:test_vit@random")
    assert isinstance(backbone, Backbone)
    theirs = backbone.model
    images = torch.nn.functional.interpolate(images, (96, 64))
    with torch.inference_mode():
        expected = theirs.forward_features(images)
        layers = backbone.get_intermediate_layers(images, 3, return_class_token=True)
        (grid,) = backbone.get_intermediate_layers(images, [backbone.n_blocks - 1], reshape=True)
        inner = theirs.norm(theirs.forward_intermediates(images, [1], output_fmt="NLC", norm=False)[1][0])
    found = parts(backbone, images)
    torch.testing.assert_close(found["x_norm_clstoken"], expected[:, 0])
    torch.testing.assert_close(found["x_norm_patchtokens"], expected[:, theirs.num_prefix_tokens :])
    assert len(layers) == 3
    torch.testing.assert_close(layers[-1][1], expected[:, 0])
    side = backbone.patch_size
    assert grid.shape[2:] == (96 // side, 64 // side)
    torch.testing.assert_close(grid.flatten(2).transpose(1, 2), found["x_norm_patchtokens"])
    with torch.inference_mode():
        torch.testing.assert_close(backbone.get_intermediate_layers(images, [1])[0], inner)
    settings = timm.data.resolve_model_data_config(theirs)
    assert backbone.normalization == (settings["mean"], settings["std"])
    assert backbone.config.img_size == settings["input_size"][1]


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_efficientnet"])
def test_timm_cnns_give_their_last_feature_map(name: str) -> None:
    backbone = load_backbone(f"timm:{name}@random")
    images = torch.randn(2, 3, 96, 64)
    theirs = backbone.model
    with torch.inference_mode():
        expected = theirs.forward_features(images)
        pooled = theirs.forward_head(expected, pre_logits=True)
    found = parts(backbone, images)
    assert backbone.patch_size == theirs.feature_info[-1]["reduction"]
    torch.testing.assert_close(found["x_norm_patchtokens"], expected.flatten(2).transpose(1, 2))
    cls = pooled if pooled.shape[1] == backbone.embed_dim else expected.mean((2, 3))
    torch.testing.assert_close(found["x_norm_clstoken"], cls)


def test_timm_weights_come_from_a_file_and_must_fit(tmp_path) -> None:
    theirs = timm.create_model("test_vit", num_classes=7)
    save_file(theirs.state_dict(), tmp_path / "w.safetensors")
    torch.save({"state_dict": {f"module.{k}": v for k, v in theirs.state_dict().items()}}, tmp_path / "w.pth")
    images = torch.randn(1, 3, 160, 160)
    with torch.inference_mode():
        expected = theirs.eval().forward_features(images)[:, 0]
    for file in ("w.safetensors", "w.pth"):
        backbone = load_backbone(f"timm:test_vit@{tmp_path / file}")
        torch.testing.assert_close(parts(backbone, images)["x_norm_clstoken"], expected)
    with pytest.raises(WeightsError, match="does not fit this model: it"):
        load_backbone(f"timm:test_resnet@{tmp_path / 'w.pth'}")
    cut = {k: v for k, v in theirs.state_dict().items() if k != "norm.weight"}
    torch.save(cut, tmp_path / "cut.pth")
    with pytest.raises(WeightsError, match=r"it lacks norm\.weight"):
        load_backbone(f"timm:test_vit@{tmp_path / 'cut.pth'}")


# -- transformers -----------------------------------------------------------------------------------------


def saved(tmp_path, model, mean=(0.1, 0.2, 0.3)):
    model.save_pretrained(tmp_path)
    processor = {"image_processor_type": "ViTImageProcessor", "image_mean": mean, "image_std": [0.5] * 3}
    if mean:
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    return load_backbone(f"hf:{tmp_path}")


@pytest.mark.parametrize(
    ("config", "model", "registers"),
    [
        (hf.Dinov2Config(**SMALL), hf.Dinov2Model, 0),
        (hf.Dinov2WithRegistersConfig(**SMALL, num_register_tokens=3), hf.Dinov2WithRegistersModel, 3),
        (hf.ViTConfig(**SMALL), hf.ViTModel, 0),
        (hf.DeiTConfig(**SMALL), hf.DeiTModel, 1),
        (hf.DINOv3ViTConfig(**SMALL, num_register_tokens=2), hf.DINOv3ViTModel, 2),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_transformers_give_their_hidden_states(tmp_path, images, config, model, registers) -> None:
    backbone = saved(tmp_path, model(config))
    assert isinstance(backbone, Backbone)
    assert backbone.normalization[0] == (0.1, 0.2, 0.3)
    assert (backbone.n_blocks, backbone.num_register_tokens, backbone.patch_size) == (3, registers, 8)
    theirs = backbone.model
    sized = {} if "dinov" in config.model_type else {"interpolate_pos_encoding": True}
    with torch.inference_mode():
        expected = theirs(pixel_values=images, output_hidden_states=True, **sized)
        norm = theirs.norm if hasattr(theirs, "norm") else theirs.layernorm
        found = backbone.layer_tokens(images, [0, 2])
        torch.testing.assert_close(found[0], norm(expected.hidden_states[1]))
    torch.testing.assert_close(found[1], expected.last_hidden_state)
    features = embed_images(MemoryImages(2).pixels.transpose(0, 3, 1, 2), backbone)
    assert features.registers.shape[1] == registers
    assert features.patches.shape[1:] == (24, 5, 6)


def test_clip_is_its_vision_tower_with_its_final_norm(tmp_path, images) -> None:
    vision = {"vision_config": SMALL, "text_config": {**SMALL, "vocab_size": 50}}
    backbone = saved(tmp_path, hf.CLIPModel(hf.CLIPConfig(**vision, projection_dim=8)))
    with torch.inference_mode():
        theirs = backbone.model(pixel_values=images, interpolate_pos_encoding=True)
    torch.testing.assert_close(parts(backbone, images)["x_norm_clstoken"], theirs.pooler_output)


def test_a_transformer_without_cls_gets_the_mean(tmp_path, images) -> None:
    backbone = saved(tmp_path, hf.SiglipVisionModel(hf.SiglipVisionConfig(**SMALL)))
    found = parts(backbone, images)
    with torch.inference_mode():
        theirs = backbone.model(pixel_values=images, interpolate_pos_encoding=True).last_hidden_state
    torch.testing.assert_close(found["x_norm_patchtokens"], theirs)
    torch.testing.assert_close(found["x_norm_clstoken"], theirs.mean(1))


@pytest.mark.parametrize("kind", ["ResNet", "ConvNext"])
def test_transformers_cnns(tmp_path, kind) -> None:
    sizes = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 8, 8, 16]}
    config = hf.ResNetConfig(**sizes, embedding_size=8) if kind == "ResNet" else hf.ConvNextConfig(**sizes)
    backbone = saved(tmp_path, getattr(hf, f"{kind}Model")(config))
    images = torch.randn(2, 3, 96, 64)
    assert (backbone.patch_size, backbone.embed_dim, backbone.n_blocks) == (32, 16, 1)
    with torch.inference_mode():
        theirs = backbone.model(pixel_values=images)
    found = parts(backbone, images)
    torch.testing.assert_close(found["x_norm_patchtokens"], theirs.last_hidden_state.flatten(2).mT)
    torch.testing.assert_close(found["x_norm_clstoken"], theirs.pooler_output.flatten(1))


# -- through the doors, and what goes wrong ---------------------------------------------------------------


def test_they_can_be_embedded_and_evaluated(tmp_path) -> None:
    hf.Dinov2Model(hf.Dinov2Config(**SMALL)).save_pretrained(tmp_path / "m")
    rng = np.random.default_rng(0)
    for i in range(12):
        path = tmp_path / "d" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(path)
    name = f"hf:{tmp_path / 'm'}"
    written = embed(tmp_path / "d", name, tmp_path / "x.npy", size=32, device="cpu")
    assert written.columns["cls"] == (24,)
    backbone = load_backbone(name)
    expected = extract(backbone, MemoryImages(4), size=32)
    assert expected.cls.shape == (4, 24)
    result = evaluate(tmp_path / "d", name, "knn", size=32, device="cpu")
    assert result["model"] == name
    assert {row["features"] for row in result["table"]} == {"model", "raw pixels"}


def test_without_a_processor_it_says_what_it_takes(tmp_path, caplog) -> None:
    with caplog.at_level("INFO", logger="nexus"):
        backbone = saved(tmp_path, hf.ViTModel(hf.ViTConfig(**SMALL)), mean=None)
    assert "taking those of ImageNet" in caplog.text
    assert backbone.normalization[0] == pytest.approx((0.485, 0.456, 0.406))
    first = next(load_backbone(f"hf:{tmp_path}@random").parameters())
    assert not torch.equal(first, next(backbone.parameters()))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("timm:", "names no model"),
        ("timm:resnet81@random", "did you mean"),
        ("timm:test_vit", "name a file"),
        ("timm:test_vit@nowhere.pth", "nowhere.pth"),
        ("hf:/no/such/folder", "save_pretrained"),
        ("hf:x@file.pth", "after @ comes only"),
    ],
)
def test_mistakes_are_one_message(name: str, said: str) -> None:
    with pytest.raises(WeightsError, match=said):
        load_backbone(name)


def test_a_missing_library_is_named(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(WeightsError, match=r"needs timm, which is not installed: pip install timm"):
        load_backbone("timm:resnet18")


def test_text_models_do_not_see(tmp_path) -> None:
    small = {k: v for k, v in SMALL.items() if k not in ("image_size", "patch_size")}
    hf.BertModel(hf.BertConfig(**small, vocab_size=50)).save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match="does not see images"):
        load_backbone(f"hf:{tmp_path}")


def test_any_module_by_the_small_contract() -> None:
    class Theirs(TokenBackbone):
        def __init__(self) -> None:
            from nexus.features import Shown

            super().__init__(
                embed_dim=6,
                patch_size=8,
                n_blocks=3,
                num_register_tokens=0,
                normalization=((0.5,) * 3, (0.5,) * 3),
                shown=Shown("theirs", img_size=32),
            )
            self.inner = TinyBackbone()

        def layer_tokens(self, x, blocks):
            layers = self.inner.get_intermediate_layers(x, 3, return_class_token=True)
            return [torch.cat([layers[b][1][:, None], layers[b][0]], 1) for b in blocks]

    backbone = Theirs().eval()
    images = torch.randn(1, 3, 32, 32)
    theirs = backbone.inner.forward_features(images)
    for name, tokens in theirs.items():
        assert torch.equal(backbone.forward_features(images)[name], tokens)
    with pytest.raises(ConfigError, match="TokenBackbone"):
        load_backbone(torch.nn.Linear(2, 2))
