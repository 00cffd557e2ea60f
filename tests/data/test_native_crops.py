"""Crops by compiled loops: Pillow's pixels, whatever the sizes; and no compiler."""

import importlib
import itertools
import sys

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from benchmarks.torchvision_crops import apply_parameters
from nexus.config import build
from nexus.data.crops.config import PRESETS, CropConfig, preset
from nexus.data.crops.engines import LIBRARIES, engine, why_not_native
from nexus.data.crops.parameters import Box, CropTable
from nexus.data.datasets import open_dataset
from nexus.data.loader import train_batches
from nexus.data.loading.making import BatchMaker
from nexus.data.masking import BlockMasker, MaskConfig
from nexus.data.multicrop import MultiCropAugmentation
from nexus.data.order import Order
from nexus.demo.source import demo_data
from nexus.errors import ConfigError
from nexus.training.auto import DataFacts, automatic
from tests.data.test_multicrop import STAGES, photo, plain, psnr, table_of

pytest.importorskip("numba")


def with_box(box: tuple[int, int, int, int], **turns: bool) -> CropTable:
    return table_of(plain((1, 1), box=Box(*box), **turns))


def pillows(region: np.ndarray, side: int, box: tuple[float, float, float, float]) -> np.ndarray:
    """(chans, side, side) by Pillow, one channel after the other; `box`: left, upper, right, lower.

    Newer versions of Pillow begin with the columns where these shrink, and shrink more than the rows. Nothing
    else does, so then the answer is `written_out`.
    """
    left, upper, right, lower = box
    if lower - upper > max(right - left, side):
        return written_out(region, side, box)
    resized = [
        Image.fromarray(np.ascontiguousarray(plane)).resize((side, side), Image.Resampling.BICUBIC, box)
        for plane in region.transpose(2, 0, 1)
    ]
    return np.stack([np.asarray(plane) for plane in resized])


def written_out(region: np.ndarray, side: int, box: tuple[float, float, float, float]) -> np.ndarray:
    """The same as products of whole numbers, rows first, rounded to the nearest after each."""
    left, upper, right, lower = box
    across = weights(left, right, region.shape[1], side)
    down = weights(upper, lower, region.shape[0], side)
    narrow = rounded(across @ region.transpose(2, 1, 0).astype(np.int64))  # chans, side, rows
    return rounded(down @ narrow.transpose(0, 2, 1))


def rounded(sums: np.ndarray) -> np.ndarray:
    return ((sums + 2**21) >> 22).clip(0, 255)


def weights(begin: float, end: float, pixels: int, side: int) -> np.ndarray:
    """(side, pixels): the bicubic kernel of Pillow, in whole numbers of 2 ** -22."""
    scale = (end - begin) / side
    centres = begin + (np.arange(side) + 0.5) * scale
    x = np.abs((np.arange(pixels) - centres[:, None] + 0.5) * (1.0 / max(scale, 1.0)))
    far = np.where(x < 2, -0.5 * (((x - 5) * x + 8) * x - 4), 0.0)
    kernel = np.where(x < 1, (1.5 * x - 2.5) * x * x + 1, far)
    kernel /= kernel.cumsum(axis=1)[:, -1:]  # added up one after the other
    return np.trunc(kernel * 2**22 + np.where(kernel < 0, -0.5, 0.5)).astype(np.int64)


@st.composite
def boxes(draw: st.DrawFn) -> tuple[int, int, tuple[int, int, int, int]]:
    """Height and width of a picture, and a box inside it."""
    height, width = (draw(st.one_of(st.integers(1, 40), st.integers(1, 400))) for _ in range(2))
    tall, wide = draw(st.integers(1, height)), draw(st.integers(1, width))
    return (
        height,
        width,
        (draw(st.integers(0, height - tall)), draw(st.integers(0, width - wide)), tall, wide),
    )


@settings(max_examples=60, deadline=None)
@given(
    place=boxes(),
    side=st.one_of(st.integers(1, 24), st.integers(1, 130)),
    chans=st.sampled_from([1, 2, 3, 3, 3, 4, 7]),
    turns=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    seed=st.integers(0, 2**32 - 1),
    extreme=st.booleans(),
)
@example(place=(2, 130, (0, 2, 2, 3)), side=130, chans=1, turns=(False,) * 3, seed=4094, extreme=True)
def test_boxes_are_resized_as_by_pillow(place, side, chans, turns, seed, extreme) -> None:
    """To the byte, also for noise of black and white, where sums overshoot, and where they end in a half."""
    height, width, box = place
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, chans), dtype=np.uint8)
    if extreme:
        pixels = np.where(pixels < 128, 0, 255).astype(np.uint8)
    crop = np.full((chans, side, side), 77, np.uint8)
    named = dict(zip(("flip", "vertical_flip", "transpose"), turns, strict=True))
    engine(native=True).cut(pixels, 1, with_box(box, **named), [crop])
    top, left, tall, wide = box
    want = pillows(pixels[top : top + tall, left : left + wide], side, (0, 0, wide, tall))
    for turned, axes in zip(turns[:2], (2, 1), strict=True):
        want = np.flip(want, axes) if turned else want
    want = want.transpose(0, 2, 1) if turns[2] else want
    assert np.array_equal(crop, want)


@pytest.mark.parametrize("shrink", [2, 4, 8])
def test_boxes_that_begin_between_pixels(shrink: int) -> None:
    """Of a picture that was decoded smaller: as Pillow resizes such a box of the pixels that it touches."""
    rng = np.random.default_rng(shrink)
    pixels = np.asarray(photo(150, 110))
    for _ in range(20):
        top, left = (rng.random(2) * 80 * shrink).astype(int).tolist()
        tall, wide = (shrink * 10 + rng.random(2) * 20 * shrink).astype(int).tolist()
        crop = np.empty((3, 24, 24), np.uint8)
        engine(native=True).cut(pixels, shrink, with_box((top, left, tall, wide)), [crop])
        first, low = top // shrink, left // shrink
        last, high = -(-(top + tall) // shrink), -(-(left + wide) // shrink)
        sides = (left, top, left + wide, top + tall)
        inside = tuple(s / shrink - o for s, o in zip(sides, (low, first) * 2, strict=True))
        want = pillows(pixels[first:last, low:high], 24, inside)
        assert np.array_equal(crop, want)


def test_pixels_of_other_kinds_go_the_usual_way() -> None:
    pixels = np.asarray(photo()).astype(np.float32) / np.float32(255)
    one, other = np.empty((2, 3, 24, 24), np.float32)
    for kind, crop in ((engine(native=True), one), (LIBRARIES, other)):
        kind.cut(pixels, 1, with_box((3, 5, 60, 70), flip=True), [crop])
    assert np.array_equal(one, other)


def test_a_picture_may_be_large() -> None:
    """Larger than the memory that is kept: it is not kept."""
    from nexus.data.crops.native import core

    pixels = np.zeros((5000, 5000, 3), np.uint8)
    pixels[:, :, 1] = 200
    crop = np.empty((3, 8, 8), np.uint8)
    engine(native=True).cut(pixels, 1, with_box((0, 0, 5000, 5000)), [crop])
    assert (crop == np.array([0, 200, 0])[:, None, None]).all()
    assert len(core._memory.bytes) <= 2**26


# -- choosing ---------------------------------------------------------------------------------------


@pytest.fixture
def no_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)


def test_the_choice_is_said_with_its_reason() -> None:
    tree, choices = automatic({"compute": {"device": "cpu"}}, DataFacts(1000, 300))
    assert tree["data"]["native"] is True
    assert "data.native=True  (compiled loops make crops in less time)" in map(str, choices)


@pytest.mark.usefixtures("no_numba")
def test_without_numba_the_libraries_make_the_crops() -> None:
    tree, choices = automatic({"compute": {"device": "cpu"}}, DataFacts(1000, 300))
    assert tree["data"]["native"] is False
    assert any('pip install "nexus[native]"' in str(choice) for choice in choices)
    assert why_not_native() is not None
    assert engine(native=False) is LIBRARIES


@pytest.mark.usefixtures("no_numba")
def test_a_run_that_began_with_numba_does_not_go_on_without() -> None:
    with pytest.raises(ConfigError, match=r"data.native=true .* pip install .*data.native=false"):
        MultiCropAugmentation(native=True)


def test_code_is_compiled_also_where_it_cannot_be_kept(tmp_path, monkeypatch) -> None:
    from nexus.data.crops.native.compiling import kernel

    (tmp_path / "file").write_text("in the way of a folder")
    monkeypatch.setenv("NEXUS_CACHE", str(tmp_path / "file"))
    caching = importlib.import_module("numba.core.caching")
    places = getattr(caching, "CacheImpl", None) or caching._CacheImpl  # the name before numba 0.62
    monkeypatch.setattr(places, "_locator_classes", [])
    assert kernel("int64(int64)")(lambda number: number + 1)(41) == 42


# -- colours ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", STAGES, ids=str)
@pytest.mark.parametrize("side", [56, 24, 3])
def test_each_stage_is_torchvisions(changes: dict, side: int) -> None:
    """To the byte but for a level in resize and blur; here and there hue is one step of 255 off."""
    config = CropConfig(global_size=side, local_size=side, blur_kernel=min(9, 2 * side - 1))
    image = photo()
    parameters = plain(image.size, **changes)
    crop = np.empty((3, side, side), np.uint8)
    compiled = engine(native=True)
    compiled.cut(np.asarray(image), 1, table_of(parameters), [crop])
    compiled.recolour([crop], table_of(parameters), config.blur_kernel, config.solarize_threshold)
    difference = np.abs(crop.astype(int) - apply_parameters(image, parameters, config).numpy())
    in_hue = any(operation == "hue" for operation, _ in changes.get("jitter", ()))
    if "solarize" not in changes:  # which makes much of one level at its threshold
        assert difference.max() <= (8 if in_hue else 2)
    assert (difference > 0).mean() < (0.3 if "box" in changes else 0.06 if in_hue else 0.02)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_drawn_crops_are_torchvisions_and_almost_the_libraries(name: str) -> None:
    config = build(CropConfig, {**preset(name).model_dump(), "global_size": 56, "local_size": 24})
    image = open_dataset(demo_data(), "train")[0].image
    found: list[tuple[float, float]] = []
    for seed in range(2):
        made, usual = (
            MultiCropAugmentation(config=config, native=native).crops(image, np.random.default_rng(seed))
            for native in (True, False)
        )
        rows = zip(
            [*made.global_crops, *made.local_crops],
            [*usual.global_crops, *usual.local_crops],
            made.parameters,
            strict=True,
        )
        for one, other, row in rows:
            found.append((psnr(one, apply_parameters(image, row, config)), psnr(one, other)))
    official, libraries = np.median(found, axis=0)
    assert official > 55
    assert libraries > 48


def test_any_order_of_steps() -> None:
    """All 24, with factors at the ends of their ranges, on black, white and grey too."""
    rng = np.random.default_rng(0)
    config = CropConfig(global_size=40)
    pixels = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
    pixels[:10], pixels[10:20], pixels[20:30, :, 1:] = 0, 255, pixels[20:30, :, :1]
    image = Image.fromarray(pixels)
    ranges = {"brightness": (0.0, 1.9), "contrast": (0.1, 1.9), "saturation": (0.0, 2.0), "hue": (-0.5, 0.5)}
    for order in itertools.permutations(ranges):
        jitter = tuple((operation, float(rng.choice(ranges[operation]))) for operation in order)
        parameters = plain((40, 40), jitter=jitter, grayscale=bool(rng.random() < 0.3))
        crop = np.ascontiguousarray(pixels.transpose(2, 0, 1))
        engine(native=True).recolour([crop], table_of(parameters), 9, 128)
        difference = np.abs(crop.astype(int) - apply_parameters(image, parameters, config).numpy())
        assert (difference > 2).mean() < 0.05


def test_grey_crops_are_coloured_the_usual_way() -> None:
    one = np.array(photo(24, 24).convert("L"))[None]
    other = one.copy()
    table = table_of(plain((24, 24), jitter=(("contrast", 1.3),), blur=1.0))
    for kind, crop in ((engine(native=True), one), (LIBRARIES, other)):
        kind.recolour([crop], table, 9, 128)
    assert np.array_equal(one, other)


@pytest.mark.parametrize("recolour", [True, False])
def test_batches_are_the_same_at_any_number_of_workers(recolour: bool) -> None:
    dataset = open_dataset("synthetic:n=12,size=64")
    config = CropConfig(global_size=32, local_size=16, local_number=2)
    augmentation = MultiCropAugmentation(config=config, recolour=recolour, native=True)
    maker = BatchMaker(dataset, augmentation, Order(12, 0), BlockMasker(MaskConfig(), 4, 4))
    lists = [range(first, first + 4) for first in range(0, 12, 4)]
    batches = [list(train_batches(maker, lists, workers=workers, max_seconds=60)) for workers in (0, 2)]
    for one, other in zip(*batches, strict=True):
        assert torch.equal(one.global_crops, other.global_crops)
        assert torch.equal(one.local_crops, other.local_crops)
