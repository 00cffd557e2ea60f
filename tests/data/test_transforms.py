"""The evaluation transform against torchvision's PIL pipeline, pixel by pixel."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from nexus.data.batch import normalize
from nexus.data.transforms import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    EvalTransform,
    denormalize,
    to_tensor,
)
from nexus.errors import ConfigError


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("size", [(500, 375), (375, 501), (256, 256), (32, 32), (8, 9), (40, 301)])
@pytest.mark.parametrize(("resize", "crop"), [(256, 224), (64, 56), (97, 97)])
def test_pixels_equal_torchvision(size: tuple[int, int], resize: int, crop: int) -> None:
    image = noise(*size)
    oracle = v2.Compose(
        [v2.Resize(resize, v2.InterpolationMode.BICUBIC), v2.CenterCrop(crop), v2.PILToTensor()]
    )
    ours = EvalTransform(resize, crop)(image)
    assert ours.dtype == torch.uint8
    assert torch.equal(ours, oracle(image))


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 2)])
def test_very_long_images_are_cut_before_they_grow(size: tuple[int, int]) -> None:
    assert EvalTransform(64, 56)(noise(*size)).shape == (3, 56, 56)


def test_the_centre_of_a_very_long_image_is_kept() -> None:
    pixels = np.zeros((10, 1000, 3), dtype=np.uint8)
    pixels[:, 480:520] = 255
    assert EvalTransform(20, 20)(Image.fromarray(pixels)).min() == 255


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK"])
def test_other_modes_become_rgb(mode: str) -> None:
    image = noise(40, 30).convert(mode)
    assert torch.equal(EvalTransform(28, 28)(image), EvalTransform(28, 28)(image.convert("RGB")))


@pytest.mark.parametrize(("size", "resize"), [(224, 256), (518, 592), (98, 112), (28, 32)])
def test_for_size_keeps_the_customary_ratio(size: int, resize: int) -> None:
    assert EvalTransform.for_size(size) == EvalTransform(resize=resize, size=size)


@pytest.mark.parametrize(("resize", "size"), [(100, 101), (10, 0)])
def test_impossible_sizes_are_refused(resize: int, size: int) -> None:
    with pytest.raises(ConfigError, match=f"resize={resize}"):
        EvalTransform(resize, size)


def test_denormalize_undoes_normalize_for_every_byte() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(2, 3, 16, 16)
    normal = normalize(pixels, torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD))
    oracle = v2.Normalize(IMAGENET_MEAN, IMAGENET_STD)(pixels.float() / 255)
    torch.testing.assert_close(normal, oracle)
    assert torch.equal(denormalize(normal), pixels)
    assert torch.equal(denormalize(normal[0]), pixels[0])


def test_denormalize_clips() -> None:
    extreme = torch.tensor([-100.0, 100.0]).view(1, 1, 2).expand(3, 1, 2)
    assert denormalize(extreme)[:, 0].tolist() == [[0, 255]] * 3


def test_to_tensor_owns_writable_bytes() -> None:
    image = noise(5, 4)
    pixels = to_tensor(image)
    assert pixels.shape == (3, 4, 5)
    before = image.getpixel((0, 0))
    pixels.zero_()
    assert image.getpixel((0, 0)) == before
