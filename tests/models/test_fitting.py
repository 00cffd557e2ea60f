"""Sizes that are no multiple of the patch: every policy against loops, and the way back to pixels."""

import warnings

import pytest
import torch
from torch.nn import functional as F

from nexus.errors import ConfigError
from nexus.models.vision import VisionTransformer
from nexus.models.vision.fitting import FITS, fit_images, fit_sentence, place

SIZES = [(14, 14), (1, 1), (5, 300), (320, 736), (27, 29), (28, 42), (2160, 3840)]


def test_the_sentence_of_a_size_that_does_not_fit() -> None:
    assert fit_sentence(place(320, 736, 14), "resize") == (
        "320×736 → 322×742 (fit=resize). Use fit=pad to keep scale."
    )
    assert fit_sentence(place(28, 42, 14), "resize") is None
    assert fit_sentence(place(320, 736, 14, "pad"), "pad") == "320×736 → 322×742 (fit=pad)."


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("fit", ["resize", "pad", "crop"])
def test_frames_are_whole_patches_and_as_near_as_the_policy_allows(size: tuple, fit: str) -> None:
    if fit == "crop" and min(size) < 14:
        with pytest.raises(ConfigError, match="use fit=pad or fit=resize"):
            place(*size, 14, fit)
        return
    placement = place(*size, 14, fit)
    for frame, side in zip(placement.frame, size, strict=True):
        multiples = [14 * n for n in range(1, side // 14 + 3)]
        wanted = {
            "resize": min(multiples, key=lambda m: (abs(m - side), -m)),
            "pad": min(m for m in multiples if m >= side),
            "crop": max((m for m in multiples if m <= side), default=0),
        }
        assert frame == wanted[fit]


@pytest.mark.parametrize("size", [(30, 45), (28, 42), (9, 50)])
def test_pixels_of_each_policy_against_loops(size: tuple) -> None:
    height, width = size
    images = torch.randn(2, 3, height, width)
    padded, placement = fit_images(images, 14, "pad")
    top, left, bottom, right = placement.region
    assert (bottom - top, right - left) == size
    assert 0 <= placement.frame[0] - bottom - top <= 1
    for row in range(padded.shape[2]):
        inside = top <= row < bottom
        expected = images[:, :, row - top] if inside else torch.zeros(2, 3, width)
        assert torch.equal(padded[:, :, row, left:right], expected)
    assert padded[..., :left].abs().sum() == padded[..., right:].abs().sum() == 0
    resized, placement = fit_images(images, 14, "resize")
    expected = F.interpolate(images, placement.frame, mode="bicubic", antialias=True)
    torch.testing.assert_close(resized, expected if placement.frame != size else images)
    if height >= 14:
        cropped, placement = fit_images(images, 14, "crop")
        top, left = (-c for c in placement.corner)
        rows, cols = placement.frame
        assert torch.equal(cropped, images[:, :, top : top + rows, left : left + cols])
        assert abs((height - rows - top) - top) <= 1
        assert abs((width - cols - left) - left) <= 1


def test_strict_and_unknown() -> None:
    with pytest.raises(ConfigError, match=r"320×736 .* fit=resize for 322×742, fit=pad"):
        place(320, 736, 14, "strict")
    assert place(322, 742, 14, "strict").grid == (23, 53)
    with pytest.raises(ConfigError, match="did you mean 'resize'"):
        place(320, 736, 14, "resise")
    with pytest.raises(ConfigError, match="nothing to look at"):
        place(0, 736, 14, "pad")


@pytest.mark.parametrize("fit", ["resize", "pad", "crop"])
def test_points_go_to_pixels_and_back(fit: str) -> None:
    placement = place(33, 61, 14, fit)
    rows, cols = placement.grid
    points = torch.rand(20, 2) * torch.tensor([rows, cols])
    torch.testing.assert_close(placement.to_patches(placement.to_pixels(points)), points)
    whole = placement.to_pixels(torch.tensor([[0.0, 0.0], [float(rows), float(cols)]]))
    expected = {
        "resize": [[0, 0], [33, 61]],
        "pad": [[-4, -4], [38, 66]],
        "crop": [[2, 2], [30, 58]],
    }[fit]
    torch.testing.assert_close(whole, torch.tensor(expected, dtype=torch.float32))


@pytest.mark.parametrize("fit", ["resize", "pad", "crop"])
def test_unfit_puts_each_value_where_the_patch_was(fit: str) -> None:
    """Images of constant patches come back as they were: a patch's value at the pixels it covered."""
    placement = place(33, 61, 14, fit)
    rows, cols = placement.grid
    values = torch.arange(rows * cols, dtype=torch.float32).view(1, 1, rows, cols)
    full = placement.unfit(values, mode="nearest")
    assert full.shape == (1, 1, 33, 61)
    for row in range(33):
        for col in range(0, 61, 7):
            down, across = placement.to_patches(torch.tensor([row + 0.5, col + 0.5])).tolist()
            seen = 0 <= down <= rows and 0 <= across <= cols
            assert seen or fit == "crop"
            if min(abs(down - round(down)), abs(across - round(across))) < 1e-3:
                continue  # on the line between two patches
            got = full[0, 0, row, col]
            assert (got == values[0, 0, int(down), int(across)]) if seen else got.isnan()


def test_unfit_is_linear_between_centres_and_refuses_other_maps() -> None:
    placement = place(28, 42, 14)
    ramp = torch.arange(3.0).view(1, 1, 1, 3).expand(1, 1, 2, 3)
    line = placement.unfit(ramp)[0, 0, 5]
    centres = (torch.arange(42) + 0.5) / 14 - 0.5
    torch.testing.assert_close(line, centres.clamp(0, 2))
    with pytest.raises(ConfigError, match="3 × 2 patches does not belong"):
        placement.unfit(ramp.transpose(2, 3))


def test_patch_mask_leaves_out_patches_on_padding() -> None:
    assert place(30, 60, 14, "pad").patch_mask().all()
    narrow = place(5, 28, 14, "pad")
    assert narrow.patch_mask().tolist() == [[True, True]]
    assert place(16, 28, 14, "pad").patch_mask().tolist() == [[True, True], [True, True]]
    assert place(15, 28, 14, "pad").region == (6, 0, 21, 28)


def test_every_policy_is_silent_inside_the_backbone_and_any_size_works() -> None:
    model = VisionTransformer(img_size=56, patch_size=14, embed_dim=16, depth=1, num_heads=1).eval()
    big = VisionTransformer(img_size=480, patch_size=120, embed_dim=16, depth=1, num_heads=1).eval()
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("error")
        for height, width in [(14, 14), (3, 40), (57, 55), (90, 200)]:
            for fit in FITS[:2]:
                images, placement = fit_images(torch.randn(1, 3, height, width), 14, fit)
                (maps,) = model.get_intermediate_layers(images, 1, reshape=True)
                assert tuple(placement.unfit(maps).shape) == (1, 16, height, width)
        images, placement = fit_images(torch.randn(1, 3, 2160, 3840), 120)
        assert tuple(big(images).shape) == (1, 1 + 18 * 32, 16)
