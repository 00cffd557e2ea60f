"""Weights carried over to other numbers of channels: grey equality, timm's rule, mappings, reports."""

import json
from pathlib import Path

import pytest
import torch
from timm.models import adapt_input_conv

from nexus.errors import ConfigError
from nexus.models.vision import VisionTransformer, ViTConfig, build_backbone
from nexus.weights import load, load_with_report, save_backbone
from nexus.weights.channels import PatchWeights, carry_channels

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    model = build_backbone(ViTConfig(img_size=28, patch_size=7, embed_dim=64, depth=2, num_heads=1))
    torch.nn.init.normal_(model.patch_embed.proj.bias)
    save_backbone(model, tmp_path, provenance={}, mean=MEAN, std=STD)
    return tmp_path / "model.safetensors"


def shown(model: VisionTransformer, images: torch.Tensor) -> torch.Tensor:
    """Features of images in 0..1, with the normalisation that the model carries."""
    mean, std = (torch.tensor(part, dtype=images.dtype).view(1, -1, 1, 1) for part in model.normalization)
    with torch.no_grad():
        return model((images - mean) / std)


def test_a_grey_image_gives_the_features_of_its_copy_in_three_channels(file: Path) -> None:
    grey = torch.rand(3, 1, 35, 28, dtype=torch.float64)
    colour, one = load(file).double(), load(file, in_chans=1).double()
    assert one.config.in_chans == 1
    assert one.normalization == ((pytest.approx(sum(MEAN) / 3),), (pytest.approx(sum(STD) / 3),))
    # Weights are stored in float32, so that much of them is exact.
    copied = shown(colour, grey.expand(-1, 3, -1, -1))
    torch.testing.assert_close(shown(one, grey), copied, atol=3e-6, rtol=0)
    exact, _ = carry_channels(
        PatchWeights(
            colour.patch_embed.proj.weight.detach(), colour.patch_embed.proj.bias.detach(), MEAN, STD
        ),
        1,
    )
    one.patch_embed.proj.weight.data, one.patch_embed.proj.bias.data = exact.weight, exact.bias
    torch.testing.assert_close(
        shown(one, grey), shown(colour, grey.expand(-1, 3, -1, -1)), atol=1e-12, rtol=0
    )


@pytest.mark.parametrize("chans", [2, 4, 5, 6, 13])
def test_other_numbers_follow_the_rule_of_timm(file: Path, chans: int) -> None:
    colour, (model, report) = load(file), load_with_report(file, in_chans=chans)
    old = colour.patch_embed.proj.weight.detach()
    expected = adapt_input_conv(chans, old)
    torch.testing.assert_close(model.patch_embed.proj.weight.detach(), expected)
    assert torch.equal(model.patch_embed.proj.bias, colour.patch_embed.proj.bias)
    assert model.normalization == (
        tuple((MEAN * 5)[:chans]),
        tuple((STD * 5)[:chans]),
    )
    assert f"patch_embed: 3 → {chans} channels (repeated in turn, × 3/{chans})" in str(report)
    assert model(torch.randn(1, chans, 28, 28)).isfinite().all()


def test_a_mapping_says_where_each_channel_comes_from(file: Path) -> None:
    colour = load(file)
    model = load(file, in_chans=5, channels=[2, 1, 0, "zero", "mean"])
    old, new = colour.patch_embed.proj.weight, model.patch_embed.proj.weight
    assert torch.equal(new[:, :3], old.flip(1))
    assert new[:, 3].abs().sum() == 0
    torch.testing.assert_close(new[:, 4], old.mean(1))
    assert model.normalization[0][:3] == MEAN[::-1]
    # A channel of weight zero changes nothing, whatever is in it.
    rgbx = load(file, channels=[0, 1, 2, "zero"])
    images = torch.rand(2, 4, 28, 28)
    torch.testing.assert_close(shown(rgbx, images), shown(colour, images[:, :3]), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"in_chans": 0}, "in_chans=0 must be at least 1"),
        ({"in_chans": 4, "channels": [0, 1]}, "names 2 sources for in_chans=4"),
        ({"channels": [0, 1, 3]}, "3 is no source; use 0 to 2, 'mean' or 'zero'"),
        ({"channels": [0, True]}, "True is no source"),
    ],
)
def test_what_cannot_be_carried(file: Path, settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(file, **settings)


def test_a_carried_model_is_saved_and_loaded_as_it_is(file: Path, tmp_path: Path) -> None:
    model = load(file, in_chans=4)
    mean, std = model.normalization
    save_backbone(model, tmp_path / "four", provenance={}, mean=mean, std=std)
    again, report = load_with_report(tmp_path / "four" / "model.safetensors")
    assert report.resized == ()
    assert again.config.in_chans == 4
    assert again.normalization == model.normalization
    assert json.loads((tmp_path / "four" / "config.json").read_text())["normalization"]["mean"] == list(mean)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))
    back = load(tmp_path / "four" / "model.safetensors", in_chans=1)
    assert back.config.in_chans == 1


def test_random_weights_take_channels_too() -> None:
    model = load("vit_tiny_patch16", in_chans=6)
    assert model.patch_embed.proj.weight.shape[1] == model.config.in_chans == 6
    assert all(parameter.requires_grad for parameter in model.parameters())
