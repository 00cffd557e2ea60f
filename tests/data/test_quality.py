"""Quality rules on generated images, one failing image per rule."""

import numpy as np
import pytest
from PIL import Image, ImageFilter

from nexus.data.quality import ImageQualityFilter, sharpness
from nexus.data.view import DatasetView
from nexus.errors import ConfigError
from tests.data.test_deduplication import Source


def noise(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_the_seeds_filter_leaves_out_small_long_and_broken_images() -> None:
    images = [noise(224, 224), noise(223, 500), noise(224, 672), noise(224, 673), None]
    quality_filter = ImageQualityFilter(min_resolution=224, max_aspect_ratio=3.0, check_corrupted=True)
    view = quality_filter.filter(Source(images))
    assert isinstance(view, DatasetView)
    assert [view[i].name for i in range(len(view))] == ["0.png", "2.png"]
    assert [(r.index, r.name, r.rule, r.reason) for r in view.report.rejections] == [
        (1, "1.png", "min_resolution", "shorter side 223 px, below 224"),
        (3, "3.png", "max_aspect_ratio", "aspect ratio 3.00, above 3"),
        (4, "4.png", "check_corrupted", "truncated PNG"),
    ]
    assert view.report.sentence() == (
        "5 images: 2 kept, 3 left out (1 min_resolution, 1 max_aspect_ratio, 1 check_corrupted)"
    )


def test_unreadable_images_stay_when_nobody_asks() -> None:
    view = ImageQualityFilter(check_corrupted=False).filter(Source([None, noise(224, 224)]))
    assert view.indices == [0, 1]
    assert view.report.sentence() == "2 images: 2 kept, 0 left out"


def test_blank_and_blurred_images_go_only_on_request() -> None:
    images = [noise(64, 64), Image.new("RGB", (64, 64), "white")]
    images.append(images[0].filter(ImageFilter.GaussianBlur(3)))
    assert len(ImageQualityFilter(min_resolution=32).filter(images)) == 3
    view = ImageQualityFilter(min_resolution=32, min_std=5).filter(images)
    assert [r.index for r in view.report.rejections] == [1]
    view = ImageQualityFilter(min_resolution=32, min_sharpness=100).filter(images)
    assert [(r.index, r.rule) for r in view.report.rejections] == [
        (1, "min_sharpness"),
        (2, "min_sharpness"),
    ]


def test_sharpness_is_the_variance_of_the_laplacian() -> None:
    image = noise(9, 7)
    grey = np.asarray(image.convert("L"), dtype=np.float64)
    values = [
        grey[y - 1, x] + grey[y + 1, x] + grey[y, x - 1] + grey[y, x + 1] - 4 * grey[y, x]
        for y in range(1, 6)
        for x in range(1, 8)
    ]
    assert sharpness(image) == pytest.approx(np.var(values), rel=1e-5)
    assert sharpness(noise(2, 50)) == 0.0


def test_views_can_be_stacked() -> None:
    images = [noise(100, 100), noise(300, 300), noise(250, 250)]
    first = ImageQualityFilter().filter(images)
    second = ImageQualityFilter(min_resolution=260).filter(first)
    assert len(second) == 1
    assert second[0] is images[1]


def test_a_callers_mistake_is_not_taken_for_a_damaged_image() -> None:
    class Buggy(Source):
        def __getitem__(self, index: int) -> None:
            raise KeyError("label")

    with pytest.raises(KeyError):
        ImageQualityFilter().filter(Buggy([None]))


@pytest.mark.parametrize("setting", [{"min_resolution": -1}, {"max_aspect_ratio": 0.5}, {"min_std": -1.0}])
def test_impossible_settings_are_refused(setting: dict) -> None:
    with pytest.raises(ConfigError):
        ImageQualityFilter(**setting)
