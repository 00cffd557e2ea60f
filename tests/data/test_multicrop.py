"""Multi-crop: every probability by counting, every pixel against torchvision's PIL pipeline."""

import io
import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import ks_2samp, kstest
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from nexus.config import build
from nexus.data.multicrop import (
    PRESETS,
    Box,
    CropConfig,
    CropParameters,
    MultiCropAugmentation,
    apply_parameters,
    draw_parameters,
    preset,
)
from nexus.errors import ConfigError

DRAWS = 3000
KINDS = ("global1", "global2", "local")

# name of preset -> kind -> (jitter, grayscale, blur, solarize); dinov2 reference §3 and the seed
EXPECTED = {
    "official": {
        "global1": (0.8, 0.2, 0.0, 0.0),
        "global2": (0.8, 0.2, 0.9, 0.2),
        "local": (0.8, 0.2, 0.5, 0.0),
    },
    "byol": {
        "global1": (0.8, 0.2, 1.0, 0.0),
        "global2": (0.8, 0.2, 0.1, 0.2),
        "local": (0.8, 0.2, 0.5, 0.0),
    },
    "seed": dict.fromkeys(KINDS, (1.0, 0.2, 1.0, 0.0)),
}


def photo(width: int = 120, height: int = 90, seed: int = 0) -> Image.Image:
    """Smooth colours with some noise."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    noisy = smooth + rng.integers(-20, 20, smooth.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def plain(size: tuple[int, int], kind: str = "global1", **changes: object) -> CropParameters:
    """The whole image, nothing else done to it."""
    box = Box(0, 0, size[1], size[0])
    return replace(CropParameters(kind, box, False, False, None, False, None, False), **changes)


def drawn(kind: str, config: CropConfig, size: tuple[int, int] = (400, 300)) -> list:
    rng = np.random.default_rng(1)
    return [draw_parameters(size, kind, config, rng) for _ in range(DRAWS)]


def check_rate(flags: list[bool], probability: float) -> None:
    """A binomial count within five standard deviations; certain events exactly."""
    bound = 5 * math.sqrt(probability * (1 - probability) / len(flags))
    assert abs(np.mean(flags) - probability) <= bound


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_probability_of_every_preset(name: str, kind: str) -> None:
    jitter, grayscale, blur, solarize = EXPECTED[name][kind]
    draws = drawn(kind, preset(name))
    check_rate([p.flip for p in draws], 0.5)
    check_rate([p.vertical_flip for p in draws], 0.0)
    check_rate([p.jitter is not None for p in draws], jitter)
    check_rate([p.grayscale for p in draws], grayscale)
    check_rate([p.blur is not None for p in draws], blur)
    check_rate([p.solarize for p in draws], solarize)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_magnitude_of_every_preset(name: str, kind: str) -> None:
    """Factors and blur widths are uniform in their ranges, and the order of the jitter is fair."""
    config = preset(name)
    draws = drawn(kind, config)
    jitters = [p.jitter for p in draws if p.jitter]
    spread = {"brightness": 0.4, "contrast": 0.4, "hue": 0.1}
    spread["saturation"] = 0.4 if name == "seed" else 0.2
    for operation, half in spread.items():
        centre = 0.0 if operation == "hue" else 1.0
        factors = [dict(jitter)[operation] for jitter in jitters]
        assert kstest(factors, "uniform", (centre - half, 2 * half)).pvalue > 1e-4
        for place in range(4):
            check_rate([jitter[place][0] == operation for jitter in jitters], 0.25)
    sigmas = [p.blur for p in draws if p.blur is not None]
    if sigmas:
        assert kstest(sigmas, "uniform", (0.1, 1.9)).pvalue > 1e-4


def test_the_stages_are_independent() -> None:
    draws = drawn("global2", preset("official"))
    table = [[p.flip, bool(p.jitter), p.grayscale, p.blur is None, p.solarize] for p in draws]
    correlation = np.corrcoef(np.array(table, dtype=float).T)
    assert np.abs(correlation - np.eye(5)).max() < 5 / math.sqrt(DRAWS)


def test_every_probability_field_is_obeyed() -> None:
    config = CropConfig(
        flip=0.1, vertical_flip=0.7, jitter=0.3, grayscale=0.6, blur_global1=0.4, blur_kernel=3
    )
    draws = drawn("global1", config)
    check_rate([p.flip for p in draws], 0.1)
    check_rate([p.vertical_flip for p in draws], 0.7)
    check_rate([p.jitter is not None for p in draws], 0.3)
    check_rate([p.grayscale for p in draws], 0.6)
    check_rate([p.blur is not None for p in draws], 0.4)


def test_operations_of_strength_zero_are_left_out() -> None:
    config = CropConfig(jitter=1.0, hue=0.0, contrast=0.0, brightness=3.0)
    jitters = [p.jitter for p in drawn("local", config)]
    assert {frozenset(dict(jitter)) for jitter in jitters} == {frozenset({"brightness", "saturation"})}
    brightness = [dict(jitter)["brightness"] for jitter in jitters]
    assert kstest(brightness, "uniform", (0.0, 4.0)).pvalue > 1e-4


@pytest.mark.parametrize("size", [(400, 300), (37, 41), (900, 100), (50, 700), (8, 8)])
@pytest.mark.parametrize("kind", ["global1", "local"])
def test_boxes_are_distributed_as_torchvisions(size: tuple[int, int], kind: str) -> None:
    config = CropConfig()
    scale = config.view(kind).scale
    blank = Image.new("RGB", size)
    theirs = np.array(
        [v2.RandomResizedCrop(8, scale, config.ratio).make_params([blank]) for _ in range(DRAWS)]
    )
    table = np.array([[entry[key] for key in ("top", "left", "height", "width")] for entry in theirs])
    ours = np.array([p.box for p in drawn(kind, config, size)])
    measures = [
        lambda box: box[:, 0],
        lambda box: box[:, 1],
        lambda box: box[:, 2] * box[:, 3],
        lambda box: box[:, 3] / box[:, 2],
    ]
    for measure in measures:
        assert ks_2samp(measure(ours), measure(table)).pvalue > 1e-4


@pytest.mark.parametrize("size", [(1, 1), (1, 1000), (1000, 1), (8, 3), (5000, 4000)])
def test_boxes_stay_inside(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        box = draw_parameters(size, "local", CropConfig(), rng).box
        assert min(box.height, box.width) >= 1
        assert min(box.top, box.left) >= 0
        assert box.top + box.height <= size[1]
        assert box.left + box.width <= size[0]


JITTER = {
    "brightness": v2.functional.adjust_brightness,
    "contrast": v2.functional.adjust_contrast,
    "saturation": v2.functional.adjust_saturation,
    "hue": v2.functional.adjust_hue,
}


def torchvision_pixels(image: Image.Image, parameters: CropParameters, config: CropConfig) -> torch.Tensor:
    """The same decisions through torchvision's PIL functions, every stage on a PIL image."""
    side = config.local_size if parameters.kind == "local" else config.global_size
    bicubic = v2.InterpolationMode.BICUBIC
    image = F.resized_crop(image, *parameters.box, [side, side], bicubic, antialias=True)
    if parameters.flip:
        image = F.horizontal_flip(image)
    if parameters.vertical_flip:
        image = F.vertical_flip(image)
    for operation, factor in parameters.jitter or ():
        image = JITTER[operation](image, factor)
    if parameters.grayscale:
        image = F.rgb_to_grayscale(image, num_output_channels=3)
    if parameters.blur is not None:
        image = F.gaussian_blur(image, [config.blur_kernel] * 2, [parameters.blur] * 2)
    if parameters.solarize:
        image = F.solarize(image, float(config.solarize_threshold))
    return F.pil_to_tensor(image)


STAGES = [
    {},
    {"kind": "local"},
    {"box": Box(11, 7, 40, 31)},
    {"box": Box(0, 0, 56, 56)},
    {"flip": True},
    {"vertical_flip": True},
    {"jitter": (("brightness", 1.37),)},
    {"jitter": (("contrast", 0.63),)},
    {"jitter": (("saturation", 1.19),)},
    {"jitter": (("hue", -0.083),)},
    {"jitter": (("hue", 0.05), ("contrast", 1.4), ("brightness", 0.6), ("saturation", 0.8))},
    {"grayscale": True},
    {"blur": 0.1},
    {"blur": 0.9},
    {"blur": 2.0},
    {"solarize": True},
    {"blur": 1.3, "solarize": True},
    {"kind": "global2", "flip": True, "grayscale": True, "blur": 0.7, "solarize": True},
]


@pytest.mark.parametrize("changes", STAGES, ids=str)
def test_pixels_of_each_stage_equal_torchvisions(changes: dict) -> None:
    config = CropConfig(global_size=56, local_size=24)
    image = photo()
    parameters = plain(image.size, **changes)
    ours = apply_parameters(image, parameters, config)
    assert ours.dtype == torch.uint8
    assert torch.equal(ours, torchvision_pixels(image, parameters, config))
    if set(changes) - {"kind", "box"} and changes.get("blur") != 0.1:
        untouched = plain(image.size, changes.get("kind", "global1"))
        assert not torch.equal(ours, apply_parameters(image, untouched, config))


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_pixels_of_drawn_crops_equal_torchvisions(name: str) -> None:
    config = build(CropConfig, {**preset(name).model_dump(), "global_size": 56, "local_size": 24})
    image = photo(150, 130)
    crops = MultiCropAugmentation(config).crops(image, np.random.default_rng(5))
    for pixels, parameters in zip([*crops.global_crops, *crops.local_crops], crops.parameters, strict=True):
        assert torch.equal(pixels, torchvision_pixels(image, parameters, config))


@pytest.mark.parametrize("name", sorted(PRESETS))
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
    augmentation = MultiCropAugmentation(config)
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
    transform = MultiCropAugmentation(config, mean=mean, std=std)
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


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"flip": 1.1}, "flip"),
        ({"local_scale": (0.0, 0.5)}, "0 < low <= high"),
        ({"global_scale": (0.5, 0.4)}, "0 < low <= high"),
        ({"global_scale": (0.5, 1.2)}, "global_scale"),
        ({"blur_kernel": 8}, "even; take 9"),
        ({"blur_kernel": 23, "local_size": 11}, "too wide for local_size=11"),
        ({"hue": 0.6}, "hue"),
        ({"colour": 1}, "unknown setting"),
        ({"blur_global_1": 1}, "did you mean 'blur_global1'"),
    ],
)
def test_wrong_settings_are_explained(wrong: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(CropConfig, wrong)


def test_wrong_keywords_and_presets_are_explained() -> None:
    with pytest.raises(ConfigError, match="did you mean 'official'"):
        preset("offical")
    with pytest.raises(ConfigError, match="did you mean 'byol'"):
        MultiCropAugmentation(preset="boyl")
    with pytest.raises(ConfigError, match="local_scale"):
        MultiCropAugmentation(local_crops_scale=(0.4, 0.05))


def test_a_wide_kernel_is_fine_where_nothing_is_blurred() -> None:
    CropConfig(local_size=4, blur_local=0.0)
    CropConfig(local_size=4, local_number=0)


def test_solarize_is_left_to_the_second_global_crop_and_obeys_its_threshold() -> None:
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).convert("RGB")
    config = CropConfig(global_size=16, local_number=0, solarize_threshold=200)
    pixels = apply_parameters(ramp, plain((16, 16), "global2", solarize=True), config)
    values = np.arange(256)
    assert pixels[0].flatten().tolist() == np.where(values < 200, values, 255 - values).tolist()


def test_every_field_is_documented() -> None:
    assert all(field.description for field in CropConfig.model_fields.values())
    assert {field.name for field in fields(CropParameters)} == set(vars(plain((1, 1))))
