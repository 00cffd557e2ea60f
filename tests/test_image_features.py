"""Everything about images in memory: number types, shapes, layers, attention, sizes."""

import numpy as np
import pytest
import torch
from PIL import Image

from nexus.embedding import embed_images
from nexus.errors import ConfigError
from nexus.features import unit_range
from nexus.models.vision import VisionTransformer
from tests.evals.stubs import TinyBackbone


@pytest.fixture
def model() -> VisionTransformer:
    return VisionTransformer(
        img_size=56, patch_size=14, embed_dim=16, depth=3, num_heads=2, num_register_tokens=2
    ).eval()


def test_every_output_against_the_official_calls(model) -> None:
    images = torch.rand(2, 3, 42, 70)
    found = embed_images(images, model, layers=[1, 3], attention=[2, -1], mean=(0.5,) * 3, std=(0.2,) * 3)
    x = (images - 0.5) / 0.2
    with torch.no_grad():
        official = model.forward_features(x)
        maps = model.get_intermediate_layers(x, [0, 2], reshape=True, return_class_token=True)
        torch.testing.assert_close(found.cls, official["x_norm_clstoken"])
        torch.testing.assert_close(found.registers, official["x_norm_regtokens"])
        torch.testing.assert_close(found.patches.flatten(2).mT, official["x_norm_patchtokens"])
        torch.testing.assert_close(found.mean_patch, official["x_norm_patchtokens"].mean(1))
        assert list(found.layers) == [1, 3]
        for (patches, cls), layer in zip(maps, found.layers.values(), strict=True):
            torch.testing.assert_close(layer.patches, patches)
            torch.testing.assert_close(layer.cls, cls)
        torch.testing.assert_close(found.attention[2], model.attention_maps(x, 1))
        torch.testing.assert_close(found.attention[-1], model.attention_maps(x))
    assert found.attention[2].shape == (2, 2, 18, 18)
    torch.testing.assert_close(found.attention[-1].sum(-1), torch.ones(2, 2, 18))
    assert found.patches.shape == (2, 16, 3, 5)
    assert found.placement.unfit(found.patches).shape == (2, 16, 42, 70)


def test_sizes_follow_the_policy_and_the_model_comes_back_as_it_was(model) -> None:
    model.train()
    images = torch.rand(1, 3, 50, 33)
    assert embed_images(images, model).patches.shape[2:] == (4, 2)
    assert embed_images(images, model, fit="pad").patches.shape[2:] == (4, 3)
    assert embed_images(images, model, fit="crop").patches.shape[2:] == (3, 2)
    with pytest.raises(ConfigError, match="fit=strict"):
        embed_images(images, model, fit="strict")
    assert model.training
    # Padding is the mean colour: an image of nothing but it is seen as such.
    model.normalization = ((0.4, 0.5, 0.6), (0.2, 0.2, 0.2))
    mean = torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1)
    padded = embed_images(mean.expand(1, 3, 50, 33), model, fit="pad")
    whole = embed_images(mean.expand(1, 3, 56, 42), model)
    torch.testing.assert_close(padded.cls, whole.cls)


@pytest.mark.parametrize(
    ("dtype", "white"), [(np.uint8, 255), (np.uint16, 65535), (np.uint32, 4294967295), (">u2", 65535)]
)
def test_whole_numbers_are_scaled_by_their_type(dtype, white) -> None:
    values = np.array([0, 1, white // 2, white], dtype=dtype).reshape(1, 1, 2, 2)
    expected = np.array([0, 1, white // 2, white], dtype=np.float64) / white
    np.testing.assert_allclose(unit_range(values, 1).flatten(), expected.astype(np.float32), rtol=1e-7)
    if dtype != ">u2":
        assert torch.equal(unit_range(torch.from_numpy(values), 1), unit_range(values, 1))


def test_floats_pass_as_they_are_and_arrays_are_not_written_to() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        images = torch.rand(2, 3, 4, 4).to(dtype)
        assert torch.equal(unit_range(images), images.float())
    frozen = np.random.default_rng(0).random((3, 4, 4))
    frozen.setflags(write=False)
    assert unit_range(frozen).shape == (1, 3, 4, 4)


def test_8_and_16_bits_of_the_same_picture_agree(model) -> None:
    eight = np.random.default_rng(0).integers(0, 256, (2, 3, 28, 28), dtype=np.uint8)
    sixteen = eight.astype(np.uint16) * 257
    torch.testing.assert_close(embed_images(eight, model).cls, embed_images(sixteen, model).cls)


def test_pil_images_and_single_ones(model) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (28, 42, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    from_array = embed_images(pixels.transpose(2, 0, 1), model).cls
    assert torch.equal(embed_images(picture, model).cls, from_array)
    torch.testing.assert_close(embed_images([picture, picture], model).cls, from_array.expand(2, -1))
    grey = VisionTransformer(img_size=28, patch_size=14, embed_dim=16, depth=1, num_heads=2, in_chans=1)
    grey.normalization = ((0.5,), (0.2,))
    plane = pixels[:, :, 0]
    same = [plane, plane[None], plane[None, None], Image.fromarray(plane)]
    first, *others = (embed_images(images, grey).cls for images in same)
    assert all(torch.equal(first, other) for other in others)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.rand(2, 4, 28, 28), r"have 4 channels, but the backbone takes 3; .*in_chans=4"),
        (np.zeros((28, 28, 3), np.uint8), r"channels last; pass images.transpose\(0, 3, 1, 2\)"),
        (torch.rand(1, 3, 28, 28) * 255, r"within 0..1, not .*; divide by the value of white"),
        (torch.randn(1, 3, 28, 28), "do not normalise"),
        (torch.full((1, 3, 28, 28), torch.nan), "within 0..1, not nan"),
        (torch.zeros(1, 3, 28, 28, dtype=torch.int16), "int16 have no stated range"),
        (np.zeros((1, 3, 28, 28), bool), "bool have no stated range"),
        (torch.rand(28, 28), "shape .28, 28. are not understood"),
        (torch.rand(0, 3, 28, 28), "not understood"),
        ("photo.jpg", "type str are not understood"),
        ([Image.new("RGB", (28, 28)), Image.new("RGB", (28, 42))], "different sizes"),
    ],
)
def test_images_that_are_not_understood(model, images, message) -> None:
    with pytest.raises(ConfigError, match=message):
        embed_images(images, model)


def test_layers_that_do_not_exist_and_foreign_backbones(model) -> None:
    images = torch.rand(1, 3, 28, 28)
    for layers in ([0], [4], [-4]):
        with pytest.raises(ConfigError, match=r"the backbone has 3; use 1 to 3"):
            embed_images(images, model, layers=layers)
    foreign = embed_images(torch.rand(2, 3, 16, 24), TinyBackbone(), layers=[2])
    assert foreign.registers.shape == (2, 0, 6)
    assert foreign.patches.shape == (2, 6, 2, 3)
    assert not torch.equal(foreign.layers[2].cls, foreign.cls)


def test_half_precision_is_close_and_float32(model) -> None:
    images = torch.rand(2, 3, 42, 42)
    full, half = (embed_images(images, model, precision=p, attention=[1]) for p in ("fp32", "bf16"))
    assert half.cls.dtype == half.patches.dtype == half.attention[1].dtype == torch.float32
    assert not torch.equal(full.cls, half.cls)
    torch.testing.assert_close(full.cls, half.cls, atol=0.1, rtol=0.1)
