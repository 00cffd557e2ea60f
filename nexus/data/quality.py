"""Rules that images must pass to be worth training on, and the reasons of those that do not."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from PIL import Image

from nexus.data.batch import Fault
from nexus.data.view import DatasetView, ImageSequence, Progress, each_picture, item_name
from nexus.errors import ConfigError


@dataclass(frozen=True)
class Rejection:
    """An image that was left out. `rule` is the setting it failed, `reason` says with which value."""

    index: int
    name: str
    rule: str
    reason: str


@dataclass(frozen=True)
class QualityReport:
    """What `ImageQualityFilter` left out and why. Indices are those of the original data set."""

    images: int
    rejections: tuple[Rejection, ...]

    def sentence(self) -> str:
        """The report in one line."""
        rules = Counter(rejection.rule for rejection in self.rejections)
        why = ", ".join(f"{count} {rule}" for rule, count in rules.most_common())
        kept = self.images - len(self.rejections)
        return f"{self.images} images: {kept} kept, {len(self.rejections)} left out" + (
            f" ({why})" if why else ""
        )


@dataclass(frozen=True)
class ImageQualityFilter:
    """Leaves out images that are too small, too long, damaged, and, if asked for, blank or blurred.

    Every image is decoded once; of several failed rules the first one is reported.
    """

    min_resolution: int = 224
    """Least length of the shorter side, in pixels."""
    max_aspect_ratio: float = 3.0
    """Most times that the longer side may be longer than the shorter one."""
    check_corrupted: bool = True
    """Leave out what cannot be decoded completely; otherwise it is kept, unexamined."""
    min_std: float = 0.0
    """Least standard deviation of grey levels (0..255); 5 removes blank pages and black frames. 0: off."""
    min_sharpness: float = 0.0
    """Least variance of the Laplacian of grey levels (0..255) at full size, see `sharpness`. 0: off."""

    def __post_init__(self) -> None:
        if self.min_resolution < 0 or self.min_std < 0 or self.min_sharpness < 0:
            raise ConfigError("min_resolution, min_std and min_sharpness cannot be negative; 0 is off")
        if self.max_aspect_ratio < 1:
            raise ConfigError(
                f"max_aspect_ratio={self.max_aspect_ratio} would refuse square images; use 1 or more"
            )

    def filter(
        self, dataset: ImageSequence, *, workers: int = 0, progress: Progress | None = None
    ) -> DatasetView[QualityReport]:
        """The images that pass, with the same items in the same order; `.report` lists the others.

        `dataset` is anything with a length whose items are PIL images, `Sample`s or (image, ...) tuples.
        """

        def judge(index: int, image: Image.Image | Fault) -> Rejection | None:
            found = self.check(image)
            return None if found is None else Rejection(index, item_name(dataset, index), *found)

        verdicts = list(each_picture(dataset, judge, workers=workers, progress=progress))
        kept = [index for index, verdict in enumerate(verdicts) if verdict is None]
        rejected = tuple(verdict for verdict in verdicts if verdict is not None)
        return DatasetView(dataset, kept, QualityReport(len(dataset), rejected))

    def check(self, image: Image.Image | Fault) -> tuple[str, str] | None:
        """`(rule, reason)` of the first rule that a picture fails, or `None`."""
        if isinstance(image, Fault):
            return ("check_corrupted", image.reason) if self.check_corrupted else None
        return next(self._failures(image), None)

    def _failures(self, image: Image.Image) -> Iterator[tuple[str, str]]:
        if reason := too_small(image, self.min_resolution):
            yield "min_resolution", reason
        if reason := too_long(image, self.max_aspect_ratio):
            yield "max_aspect_ratio", reason
        if self.min_std and (reason := blank(image, self.min_std)):
            yield "min_std", reason
        if self.min_sharpness and (reason := blurred(image, self.min_sharpness)):
            yield "min_sharpness", reason


def too_small(image: Image.Image, least: int) -> str:
    """Why the shorter side is too short, or an empty string."""
    side = min(image.size)
    return f"shorter side {side} px, below {least}" if side < least else ""


def too_long(image: Image.Image, most: float) -> str:
    """Why the shape is too elongated, or an empty string."""
    ratio = max(image.size) / max(min(image.size), 1)
    return f"aspect ratio {ratio:.2f}, above {most:g}" if ratio > most else ""


def blank(image: Image.Image, least: float) -> str:
    """Why the picture is nearly one colour, or an empty string."""
    std = float(_grey(image).std())
    return f"standard deviation {std:.2f}, below {least:g}" if std < least else ""


def blurred(image: Image.Image, least: float) -> str:
    """Why the picture is not sharp, or an empty string."""
    variance = sharpness(image)
    return f"variance of the Laplacian {variance:.2f}, below {least:g}" if variance < least else ""


def sharpness(image: Image.Image) -> float:
    """Variance of `up + down + left + right - 4 * centre` over the inner pixels of the grey picture."""
    grey = _grey(image)
    if min(grey.shape) < 3:
        return 0.0
    edges = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    return float((edges - 4 * grey[1:-1, 1:-1]).var())


def _grey(image: Image.Image) -> Float[np.ndarray, "height width"]:
    return np.asarray(image.convert("RGB").convert("L"), dtype=np.float32)
