"""The random decisions of crops: every probability by counting, every distribution against torchvision's."""

import math
from dataclasses import fields

import numpy as np
import pytest
from PIL import Image
from scipy.stats import ks_2samp, kstest
from torchvision.transforms import v2

from nexus.config import build
from nexus.data.crops.config import COLOURLESS, PRESETS, CropConfig, preset, with_preset
from nexus.data.crops.parameters import UNIFORMS, CropDrawer, CropParameters, joined
from nexus.data.order import CROPS, uniforms
from nexus.errors import ConfigError

DRAWS = 3000
KINDS = ("global1", "global2", "local")

PAPERS = ("official", "byol", "seed")

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


def drawn(kind: str, config: CropConfig, size: tuple[int, int] = (400, 300)) -> list:
    """The decisions of DRAWS crops of one kind."""
    drawer = CropDrawer(config.model_copy(update={"local_number": 1}))
    uniforms = np.random.default_rng(1).random((DRAWS * len(drawer.kinds), UNIFORMS))
    table = drawer(size, uniforms)
    return list(table.select(np.flatnonzero(np.array(table.kinds) == kind)).rows())


def check_rate(flags: list[bool], probability: float) -> None:
    """A binomial count within five standard deviations; certain events exactly."""
    bound = 5 * math.sqrt(probability * (1 - probability) / len(flags))
    assert abs(np.mean(flags) - probability) <= bound


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", PAPERS)
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
@pytest.mark.parametrize("name", PAPERS)
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
        assert ks_2samp(measure(ours), measure(table), method="asymp").pvalue > 1e-4


@pytest.mark.parametrize("size", [(1, 1), (1, 1000), (1000, 1), (8, 3), (5000, 4000)])
def test_boxes_stay_inside(size: tuple[int, int]) -> None:
    for parameters in drawn("local", CropConfig(), size)[:300]:
        box = parameters.box
        assert min(box.height, box.width) >= 1
        assert min(box.top, box.left) >= 0
        assert box.top + box.height <= size[1]
        assert box.left + box.width <= size[0]


def test_every_preset_draws_what_it_says() -> None:
    for name in sorted(set(PRESETS) - set(PAPERS)):
        config = preset(name)
        draws = drawn("global2", config)
        check_rate([p.vertical_flip for p in draws], config.vertical_flip)
        check_rate([p.transpose for p in draws], config.transpose)
        check_rate([p.grayscale for p in draws], config.grayscale)
        check_rate([p.solarize for p in draws], config.solarize_global2)
        check_rate([p.blur is not None for p in draws], config.blur_global2)
        operations = {operation for p in draws for operation, _ in p.jitter or ()}
        assert ("hue" in operations) == (config.hue > 0)
        assert config.preset == name


def test_presets_for_pictures_without_an_up_reach_all_eight_turns() -> None:
    for name in ("microscopy", "satellite", "texture"):
        turns = [(p.flip, p.vertical_flip, p.transpose) for p in drawn("local", preset(name))]
        for turn in {(a, b, c) for a in (False, True) for b in (False, True) for c in (False, True)}:
            check_rate([found == turn for found in turns], 1 / 8)


def test_a_preset_fills_what_is_not_given() -> None:
    config = CropConfig(preset="seed", saturation=0.3)
    assert (config.blur_kernel, config.saturation) == (23, 0.3)
    assert build(CropConfig, config.model_dump()) == config


def test_a_preset_that_is_named_replaces_settings_below_it_but_not_beside_it() -> None:
    tree = with_preset({"crops": {"preset": "official", "hue": 0.3}, "seed": 3})
    assert tree["crops"]["hue"] == 0.3
    assert tree["crops"]["blur_kernel"] == 9
    assert "global_size" not in tree["crops"]
    assert tree["seed"] == 3
    for other in ({}, {"crops": {"hue": 0.1}}, {"crops": {"preset": "no such"}}):
        assert with_preset(other) == other


def test_numbers_of_a_position_do_not_depend_on_the_batch() -> None:
    many = uniforms(5, CROPS, 7, 4, UNIFORMS)
    alone = [uniforms(5, CROPS, 7 + row, 1, UNIFORMS)[0] for row in range(4)]
    assert np.array_equal(many, alone)
    assert not np.array_equal(many, uniforms(6, CROPS, 7, 4, UNIFORMS))
    assert len(np.unique(uniforms(5, CROPS, 0, 9, UNIFORMS))) == 9 * UNIFORMS
    assert kstest(uniforms(5, CROPS, 0, 99, UNIFORMS).ravel(), "uniform").pvalue > 1e-4


def test_images_drawn_together_or_alone_are_cut_alike() -> None:
    drawer = CropDrawer(CropConfig(local_number=3))
    numbers = np.random.default_rng(0).random((4, 5, UNIFORMS))
    together = drawer((90, 70), numbers.reshape(20, UNIFORMS))
    alone = joined([drawer((90, 70), part) for part in numbers])
    assert together.rows() == alone.rows()
    large, small = together.by_size(4)
    rows = together.rows()
    assert large.rows() == tuple(rows[5 * image + crop] for crop in (0, 1) for image in range(4))
    assert small.rows() == tuple(rows[5 * image + crop] for crop in (2, 3, 4) for image in range(4))


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
        ({"preset": "boyl"}, "did you mean 'byol'"),
        ({"blur_global_1": 1}, "did you mean 'blur_global1'"),
    ],
)
def test_wrong_settings_are_explained(wrong: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(CropConfig, wrong)


def test_wrong_presets_are_explained() -> None:
    with pytest.raises(ConfigError, match="did you mean 'official'"):
        preset("offical")


def test_a_wide_kernel_is_fine_where_nothing_is_blurred() -> None:
    CropConfig(local_size=4, blur_local=0.0)
    CropConfig(local_size=4, local_number=0)


def test_every_field_is_documented() -> None:
    assert all(field.description for field in CropConfig.model_fields.values())
    assert COLOURLESS.keys() <= CropConfig.model_fields.keys()
    row = drawn("local", CropConfig())[0]
    assert {field.name for field in fields(CropParameters)} == set(vars(row))
