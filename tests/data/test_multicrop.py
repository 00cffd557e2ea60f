"""Multi-crop: pixels against torchvision's PIL pipeline at equal decisions, one image at a time."""

import io
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from benchmarks.torchvision_crops import apply_parameters
from nexus.config import build
from nexus.data.crops.colour import recolour
from nexus.data.crops.config import PRESETS, CropConfig, preset
from nexus.data.crops.geometry import cut
from nexus.data.crops.parameters import OPERATIONS, UNIFORMS, Box, CropParameters, CropTable
from nexus.data.datasets import open_dataset
from nexus.data.multicrop import MultiCropAugmentation
from nexus.data.picture import ArrayPicture, EncodedPicture
from nexus.demo.source import demo_data
from nexus.errors import ConfigError
from tests.data.test_crop_parameters import EXPECTED, KINDS, PAPERS, check_rate


def photo(width: int = 120, height: int = 90, seed: int = 0, noise: int = 20) -> Image.Image:
    """Smooth colours with some noise."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    noisy = smooth + rng.integers(-noise, noise + 1, smooth.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def plain(size: tuple[int, int], kind: str = "global1", **changes: object) -> CropParameters:
    """The whole image, nothing else done to it."""
    box = Box(0, 0, size[1], size[0])
    return replace(CropParameters(kind, box, False, False, False, None, False, None, False), **changes)


def table_of(parameters: CropParameters) -> CropTable:
    """The table with one row."""
    jitter = list(parameters.jitter or ())
    missing = 4 - len(jitter)
    return CropTable(
        kinds=(parameters.kind,),
        boxes=np.array([parameters.box]),
        flip=np.array([parameters.flip]),
        vertical_flip=np.array([parameters.vertical_flip]),
        transpose=np.array([parameters.transpose]),
        order=np.array([[*(OPERATIONS.index(operation) for operation, _ in jitter), *[-1] * missing]]),
        factors=np.array([[*(factor for _, factor in jitter), *[1.0] * missing]]),
        grayscale=np.array([parameters.grayscale]),
        blur=np.array([parameters.blur or 0.0]),
        solarize=np.array([parameters.solarize]),
    )


def ours(pixels: np.ndarray, parameters: CropParameters, config: CropConfig) -> np.ndarray:
    """One crop (chans, side, side) of pixels (height, width, chans) at given decisions."""
    side = config.view(parameters.kind).side
    crop = np.empty((pixels.shape[2], side, side), pixels.dtype)
    cut(pixels, 1, table_of(parameters), [crop])
    recolour(crop, parameters, config.blur_kernel, config.solarize_threshold)
    return crop


def psnr(one: np.ndarray, other: np.ndarray, top: float = 255.0) -> float:
    error = np.mean((np.asarray(one, dtype=float) - np.asarray(other, dtype=float)) ** 2)
    return 10 * math.log10(top**2 / max(error, 1e-9))


def nearness(changes: dict) -> float:
    """The least PSNR that a stage should keep, in dB.

    Solarization turns a difference of one level at the threshold into a large one. The hue of this picture's
    dark, noisy colours is coarse in 8-bit HSV, Pillow's as much as OpenCV's; in photos it stays above 50.
    """
    if "solarize" in changes:
        return 35.0
    return 42.0 if any(operation == "hue" for operation, _ in changes.get("jitter", ())) else 48.0


STAGES = [
    {},
    {"kind": "local"},
    {"box": Box(11, 7, 40, 31)},
    {"box": Box(0, 0, 56, 56)},
    {"flip": True},
    {"vertical_flip": True},
    {"transpose": True},
    {"flip": True, "vertical_flip": True, "transpose": True},
    {"jitter": (("brightness", 1.37),)},
    {"jitter": (("brightness", 0.7),)},
    {"jitter": (("contrast", 0.63),)},
    {"jitter": (("contrast", 1.4),)},
    {"jitter": (("saturation", 1.19),)},
    {"jitter": (("saturation", 0.3),)},
    {"jitter": (("hue", -0.083),)},
    {"jitter": (("hue", 0.05), ("contrast", 1.4), ("brightness", 0.6), ("saturation", 0.8))},
    {"grayscale": True},
    {"blur": 0.1},
    {"blur": 0.9},
    {"blur": 2.0},
    {"solarize": True},
    {"blur": 1.3, "solarize": True},
    {"kind": "global2", "flip": True, "grayscale": True, "blur": 0.7},
]


@pytest.mark.parametrize("changes", STAGES, ids=str)
def test_pixels_of_each_stage_are_torchvisions(changes: dict) -> None:
    config = CropConfig(global_size=56, local_size=24)
    image = photo()
    parameters = plain(image.size, **changes)
    crop = ours(np.asarray(image), parameters, config)
    assert crop.dtype == np.uint8
    assert psnr(crop, apply_parameters(image, parameters, config)) > nearness(changes)
    if set(changes) - {"kind", "box"} and changes.get("blur") != 0.1:
        untouched = plain(image.size, changes.get("kind", "global1"))
        assert psnr(crop, ours(np.asarray(image), untouched, config)) < 40


@pytest.mark.parametrize("changes", STAGES, ids=str)
def test_float_pixels_are_those_of_bytes(changes: dict) -> None:
    config = CropConfig(global_size=56, local_size=24)
    pixels = np.asarray(photo())
    parameters = plain(photo().size, **changes)
    deep = ours(pixels.astype(np.float32) / np.float32(255), parameters, config)
    assert deep.dtype == np.float32
    assert 0 <= deep.min() <= deep.max() <= 1
    assert psnr(deep * 255, ours(pixels, parameters, config)) > nearness(changes)


@pytest.mark.parametrize("changes", STAGES, ids=str)
@pytest.mark.parametrize("chans", [1, 2, 7])
def test_channels_are_treated_alone(changes: dict, chans: int) -> None:
    """Any number of channels; what needs red, green and blue is left out."""
    config = CropConfig(global_size=56, local_size=24)
    grey = np.asarray(photo().convert("L"))
    planes = np.stack([np.roll(grey, channel, axis=1) for channel in range(chans)], axis=2)
    parameters = plain(photo().size, **changes)
    crop = ours(planes, parameters, config)
    for channel, plane in enumerate(crop):
        alone = ours(planes[:, :, channel : channel + 1].copy(), parameters, config)[0]
        assert np.abs(plane.astype(int) - alone).max() <= (255 if "solarize" in changes else 1)
        assert psnr(plane, alone) > 40


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_pixels_of_drawn_crops_are_torchvisions(name: str) -> None:
    config = build(CropConfig, {**preset(name).model_dump(), "global_size": 56, "local_size": 24})
    image = open_dataset(demo_data(), "train")[0].image
    found = []
    for seed in range(3):
        crops = MultiCropAugmentation(config=config).crops(image, np.random.default_rng(seed))
        for pixels, row in zip([*crops.global_crops, *crops.local_crops], crops.parameters, strict=True):
            found.append(psnr(pixels, apply_parameters(image, row, config)))
    assert np.median(found) > 48
    assert min(found) > 30


@pytest.mark.parametrize("name", PAPERS)
def test_effective_blur_measured_on_pixels(name: str) -> None:
    """White noise loses its steps between neighbours when it is blurred, and only then.

    Counted as a blur: σ above 0.35, where at least a twentieth of the step is lost; σ is uniform in
    0.1..2, so this is 1.65/1.9 of the blurred crops.
    """
    noise = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    changed = {"global_size": 24, "local_size": 24, "jitter": 0.0, "grayscale": 0.0}
    changed |= {"global_scale": (1, 1), "local_scale": (1, 1), "ratio": (1, 1)}
    changed |= {"solarize_global2": 0.0, "local_number": 1}
    config = build(CropConfig, {**preset(name).model_dump(), **changed})
    augmentation = MultiCropAugmentation(config=config)
    rng = np.random.default_rng(2)

    def roughness(pixels: torch.Tensor) -> torch.Tensor:
        return pixels.float().diff(dim=-1).abs().mean(dim=(-3, -2, -1))

    sharp = roughness(torch.from_numpy(noise).permute(2, 0, 1))
    crops = [augmentation.crops(image, rng) for _ in range(400)]
    stacked = torch.stack([torch.cat([one.global_crops, one.local_crops]) for one in crops])
    blurred = roughness(stacked) < 0.95 * sharp
    for kind, flags in zip(KINDS, blurred.T, strict=True):
        check_rate(flags.tolist(), EXPECTED[name][kind][2] * 1.65 / 1.9)


def test_the_seeds_constructor_call_verbatim() -> None:
    transform = MultiCropAugmentation(
        global_crops_scale=(0.4, 1.0),
        local_crops_scale=(0.05, 0.4),
        local_crops_number=8,
        global_size=224,
        local_size=96,
    )
    crops = transform(photo())
    assert [tuple(crop.shape) for crop in crops] == [(3, 224, 224)] * 2 + [(3, 96, 96)] * 8
    assert {crop.dtype for crop in crops} == {torch.float32}
    assert transform.config.global_scale == (0.4, 1.0)
    assert transform.config.local_scale == (0.05, 0.4)
    assert transform.config.blur_global2 == 0.9


def test_calls_follow_torchs_generator() -> None:
    transform = MultiCropAugmentation(preset="seed", global_size=28, local_size=14)
    image = photo()
    torch.manual_seed(3)
    first, second = transform(image), transform(image)
    torch.manual_seed(3)
    again = transform(image)
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    assert not torch.equal(first[0], second[0])


def test_calls_return_the_normalised_crops() -> None:
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    config = CropConfig(global_size=28, local_size=14, local_number=2)
    transform = MultiCropAugmentation(config=config, mean=mean, std=std)
    torch.manual_seed(0)
    ours = transform(photo())
    torch.manual_seed(0)
    rng = np.random.default_rng(int(torch.randint(2**63 - 1, ()).item()))
    crops = transform.crops(photo(), rng)
    for crop, pixels in zip(ours, [*crops.global_crops, *crops.local_crops], strict=True):
        expected = v2.Normalize(mean, std)(v2.ToDtype(torch.float32, scale=True)(pixels))
        torch.testing.assert_close(crop, expected)


def test_crops_depend_on_the_generator_alone() -> None:
    augmentation = MultiCropAugmentation(global_size=28, local_size=14)
    first = augmentation.crops(photo(), np.random.default_rng(7))
    torch.manual_seed(99)
    again = augmentation.crops(photo(), np.random.default_rng(7))
    other = augmentation.crops(photo(), np.random.default_rng(8))
    assert first.parameters == again.parameters
    assert torch.equal(first.global_crops, again.global_crops)
    assert torch.equal(first.local_crops, again.local_crops)
    assert first.parameters != other.parameters


def test_crops_of_an_image_differ_from_each_other() -> None:
    crops = MultiCropAugmentation().crops(photo(), np.random.default_rng(0))
    assert [p.kind for p in crops.parameters] == ["global1", "global2"] + ["local"] * 8
    assert len({p.box for p in crops.parameters}) == 10


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (3, 200), (32, 32), (56, 56), (1000, 700)])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_any_image_gives_the_same_shapes(size: tuple[int, int], mode: str) -> None:
    augmentation = MultiCropAugmentation(global_size=56, local_size=28, local_crops_number=3)
    crops = augmentation.crops(Image.new(mode, size, 77), np.random.default_rng(0))
    assert crops.global_crops.shape == (2, 3, 56, 56)
    assert crops.local_crops.shape == (3, 3, 28, 28)
    assert crops.global_crops.dtype == crops.local_crops.dtype == torch.uint8
    assert crops.global_crops.is_contiguous()
    assert len(crops.parameters) == 5


def test_no_local_crops() -> None:
    augmentation = MultiCropAugmentation(local_crops_number=0, global_size=28)
    assert len(augmentation(photo())) == 2
    assert augmentation.crops(photo(), np.random.default_rng(0)).local_crops.shape == (0, 3, 96, 96)


def test_a_file_that_is_not_yet_decoded_gives_the_same_crops() -> None:
    buffer = io.BytesIO()
    photo(64, 48).save(buffer, "JPEG")
    image = Image.open(buffer)
    decoded = MultiCropAugmentation(global_size=28, local_size=14).crops(image, np.random.default_rng(0))
    direct = MultiCropAugmentation(global_size=28, local_size=14).crops(
        Image.open(buffer).convert("RGB"), np.random.default_rng(0)
    )
    assert torch.equal(decoded.global_crops, direct.global_crops)


def test_wrong_keywords_are_explained() -> None:
    with pytest.raises(ConfigError, match="did you mean 'byol'"):
        MultiCropAugmentation(preset="boyl")
    with pytest.raises(ConfigError, match="local_scale"):
        MultiCropAugmentation(local_crops_scale=(0.4, 0.05))


def test_solarize_is_left_to_the_second_global_crop_and_obeys_its_threshold() -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    config = CropConfig(global_size=16, local_number=0, solarize_threshold=200)
    crop = ours(ramp, plain((16, 16), "global2", solarize=True), config)
    values = np.arange(256)
    assert crop[0].flatten().tolist() == np.where(values < 200, values, 255 - values).tolist()
    assert ramp[0, 5, 0] == 5  # the picture itself is not written to


def test_callables_of_the_user_come_before_and_after() -> None:
    sizes = []

    def before(image: Image.Image) -> Image.Image:
        sizes.append(image.size)
        return Image.new("RGB", image.size, (200, 100, 50))

    transform = MultiCropAugmentation(
        config=CropConfig(global_size=28, local_size=14, jitter=0, grayscale=0, solarize_global2=0),
        before=before,
        after=lambda crop: crop.flip(0),
    )
    crops = transform.crops(photo(), np.random.default_rng(0))
    assert sizes == [(120, 90)]
    for crop in (*crops.global_crops, *crops.local_crops):
        assert crop[:, 3, 3].tolist() == [50, 100, 200]


def jpeg(width: int, height: int, **options: object) -> bytes:
    file = io.BytesIO()
    photo(width, height, noise=0).save(file, "JPEG", quality=92, **options)
    return file.getvalue()


@pytest.mark.parametrize("orientation", [1, 6])
def test_large_photos_are_decoded_smaller_only_if_no_crop_is_enlarged_by_it(
    monkeypatch: pytest.MonkeyPatch, orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = EncodedPicture(jpeg(1200, 900, exif=exif), "x")
    asked = []
    original = EncodedPicture.pixels

    def spy(self: EncodedPicture, shrink: int = 1) -> np.ndarray:
        asked.append(shrink)
        return original(self, shrink)

    monkeypatch.setattr(EncodedPicture, "pixels", spy)
    augmentation = MultiCropAugmentation(global_size=56, local_size=24)
    image, found = Image.fromarray(original(picture)), []
    for seed in range(8):
        crops = augmentation.of(picture, np.random.default_rng(seed).random((10, UNIFORMS)))
        sides = augmentation.sides
        spare = min(min(row.box[2:]) / side for row, side in zip(crops.parameters, sides, strict=True))
        assert asked[-1] == max(shrink for shrink in (1, 2, 4, 8) if shrink <= max(spare, 1))
        for pixels, row in zip([*crops.global_crops, *crops.local_crops], crops.parameters, strict=True):
            found.append(psnr(pixels, apply_parameters(image, row, augmentation.config)))
    assert set(asked) >= {8}
    assert np.median(found) > 38  # steep colours, at an eighth; benchmarks/crops.py has real photos


def test_a_picture_that_cannot_be_shrunk_is_cut_whole() -> None:
    pixels = np.asarray(photo(600, 400))
    uniforms = np.random.default_rng(0).random((10, UNIFORMS))
    augmentation = MultiCropAugmentation(global_size=28, local_size=14)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    one = augmentation.of(ArrayPicture(pixels, "x"), uniforms)
    other = augmentation.of(EncodedPicture(file.getvalue(), "x"), uniforms)
    assert torch.equal(one.global_crops, other.global_crops)
    assert torch.equal(one.local_crops, other.local_crops)
