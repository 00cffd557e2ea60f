"""Random views for learning segmentation, as in the official training: scale, crop, flip, colours."""

from functools import partial

import numpy as np
from jaxtyping import Int
from PIL import Image
from torchvision.transforms import functional as colours

from nexus.data.dense import VOID, DenseSample
from nexus.evals.dense.views import Draw, View, cut, random_box, scaled_size

SCALES = (0.5, 2.0)
LARGEST_SHARE = 0.75
TRIES = 10


def label_view(
    sample: DenseSample, generator: np.random.Generator, *, resolution: int, crop: int, augment: bool = True
) -> View:
    """A crop of `crop` pixels from the image with its shorter side at `resolution`, times 0.5 to 2.

    Of ten tries the first is taken in which no class has more than 75 % of the labelled pixels. Half of the
    views are mirrored; brightness, contrast, saturation and hue change a little. Without `augment` it is a
    random crop at scale 1 and nothing else.
    """
    scale = generator.uniform(*SCALES) if augment else 1.0
    scaled = scaled_size(sample.image, max(1, round(resolution * scale)))
    box = random_box(scaled, (crop, crop), generator)
    for _ in range(TRIES if augment else 0):
        if _largest_share(box.truth(sample.truth)) <= LARGEST_SHARE:
            break
        box = random_box(scaled, (crop, crop), generator)
    if not augment:
        return cut(sample, box, (crop, crop), VOID)
    flip = bool(generator.random() < 0.5)
    return cut(sample, box, (crop, crop), VOID, flip=flip, colour=partial(distort, generator=generator))


def drawing(resolution: int, crop: int, augment: bool = True) -> Draw:
    """`label_view` with its settings."""
    return partial(label_view, resolution=resolution, crop=crop, augment=augment)


def distort(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """Change brightness by 1/8, contrast and saturation by 1/2, hue by 18° at most, each every other time."""
    changes = (
        (colours.adjust_brightness, 0.875, 1.125),
        (colours.adjust_contrast, 0.5, 1.5),
        (colours.adjust_saturation, 0.5, 1.5),
        (colours.adjust_hue, -0.05, 0.05),
    )
    for change, low, high in changes:
        if generator.random() < 0.5:
            image = change(image, generator.uniform(low, high))
    return image


def _largest_share(labels: Int[np.ndarray, "height width"]) -> float:
    counts = np.bincount(labels[labels != VOID].ravel())
    return float(counts.max() / counts.sum()) if counts.size else 1.0
