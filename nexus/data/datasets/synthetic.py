"""Drawn images for tests, examples and dry runs: `synthetic:n=256,size=64,classes=4,seed=0`."""

import io
import math

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from pydantic import Field

from nexus.config import Config, build, parse_overrides
from nexus.data.batch import Sample
from nexus.data.datasets.address import SYNTHETIC
from nexus.data.datasets.base import ImageDataset
from nexus.data.images import ImageLimits
from nexus.errors import ConfigError, DataError

_SHAPES = ("disc", "square", "triangle", "ring", "cross", "diamond")
_TEXTURES = ("plain", "stripes", "checks", "dots")


class Drawing(Config):
    """What `synthetic:` draws."""

    n: int = Field(default=256, ge=1)
    """Number of images."""
    size: int = Field(default=64, ge=8)
    """Height and width in pixels."""
    classes: int = Field(default=4, ge=1)
    """Number of classes; image `i` belongs to class `i % classes`."""
    seed: int = Field(default=0, ge=0)
    """Another seed draws other images of the same classes."""


class SyntheticDataset(ImageDataset):
    """A bright shape on a dark ground. The class decides the shape (one of 6) and, beyond 6 classes, its
    texture and the texture's direction; colours, place, size, turn and noise are random, so that colour alone
    tells nothing. Image `i` depends on `(seed, i)` only, and not on `n`.
    """

    def __init__(self, drawing: Drawing, limits: ImageLimits) -> None:
        names = tuple(_class_name(c) for c in range(drawing.classes))
        text = f"{drawing.n:,} synthetic images of {drawing.size} x {drawing.size}"
        super().__init__(
            description=f"{text} in {drawing.classes} classes",
            limits=limits,
            labels=np.arange(drawing.n, dtype=np.int64) % drawing.classes,
            classes=names,
        )
        self.drawing = drawing

    def __len__(self) -> int:
        return self.drawing.n

    def name(self, i: int) -> str:
        """`synthetic_000012.png`."""
        return f"synthetic_{i:06d}.png"

    def read(self, i: int) -> bytes:
        """The image as PNG."""
        file = io.BytesIO()
        Image.fromarray(self.pixels(i)).save(file, "PNG")
        return file.getvalue()

    def __getitem__(self, i: int) -> Sample:
        i = self._position(i)
        image = Image.fromarray(self.pixels(i))
        return Sample(image=image, name=self.name(i), index=i, label=self.label(i))

    def pixels(self, i: int) -> UInt8[np.ndarray, "height width 3"]:
        """Image `i` as bytes."""
        rng = np.random.default_rng([self.drawing.seed, i])
        return _draw(i % self.drawing.classes, self.drawing.size, rng)


def open_synthetic(spec: str, limits: ImageLimits) -> SyntheticDataset:
    """The data set that `synthetic:key=value,...` describes."""
    settings = [part for part in spec.removeprefix(SYNTHETIC).split(",") if part.strip()]
    try:
        return SyntheticDataset(build(Drawing, parse_overrides(settings)), limits)
    except ConfigError as error:
        raise DataError(f"{spec}: {error}. Example: synthetic:n=256,size=64,classes=4,seed=0") from None


def _class_name(label: int) -> str:
    shape, style = label % len(_SHAPES), label // len(_SHAPES)
    texture, turn = style % len(_TEXTURES), style // len(_TEXTURES)
    return f"{_TEXTURES[texture]} {_SHAPES[shape]}" + (f" {turn}" if turn else "")


def _draw(label: int, size: int, rng: np.random.Generator) -> UInt8[np.ndarray, "height width 3"]:
    """One image: `ground + inside(shape) * texture * (paint - ground) + noise`, in 0..255."""
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1
    centre, radius = rng.uniform(-0.3, 0.3, 2).astype(np.float32), rng.uniform(0.45, 0.65)
    angle = rng.uniform(-0.3, 0.3)
    x, y = axis[None, :] - centre[0], axis[:, None] - centre[1]
    u = (math.cos(angle) * x + math.sin(angle) * y) / radius
    v = (math.cos(angle) * y - math.sin(angle) * x) / radius
    inside = _shape(label % len(_SHAPES), u, v)
    texture = _texture(label // len(_SHAPES), u, v)
    ground, paint = rng.uniform(0, 110, 3), rng.uniform(150, 255, 3)
    tilt = rng.uniform(-25, 25, 2)
    shade = tilt[0] * axis[None, :] + tilt[1] * axis[:, None]
    cover = (inside * texture)[:, :, None]
    picture = ground + shade[:, :, None] + cover * (paint - ground)
    picture = picture + rng.normal(0, 6, (size, size, 1))
    return np.clip(picture, 0, 255).astype(np.uint8)


def _shape(
    kind: int, u: Float[np.ndarray, "height width"], v: Float[np.ndarray, "height width"]
) -> Bool[np.ndarray, "height width"]:
    """The pixels of a shape of radius 1 around the origin."""
    r = np.hypot(u, v)
    return (
        lambda: r < 0.9,
        lambda: np.maximum(abs(u), abs(v)) < 0.8,
        lambda: (v < 0.7) & (v > 1.9 * abs(u) - 1),
        lambda: (r < 1) & (r > 0.55),
        lambda: (np.minimum(abs(u), abs(v)) < 0.28) & (np.maximum(abs(u), abs(v)) < 1),
        lambda: abs(u) / 0.7 + abs(v) < 1.1,
    )[kind]()


def _texture(
    style: int, u: Float[np.ndarray, "height width"], v: Float[np.ndarray, "height width"]
) -> Float[np.ndarray, "height width"]:
    """How much paint each pixel gets, 0.35..1."""
    kind, turn = style % len(_TEXTURES), style // len(_TEXTURES)
    a = 2.4 * turn  # the golden angle: directions stay apart however many there are
    s, t = math.cos(a) * u + math.sin(a) * v, math.cos(a) * v - math.sin(a) * u
    waves = np.sin(9 * s), np.sin(9 * t)
    on = (
        lambda: np.ones(u.shape, dtype=bool),
        lambda: waves[0] > 0,
        lambda: (waves[0] > 0) ^ (waves[1] > 0),
        lambda: (waves[0] > 0.2) & (waves[1] > 0.2),
    )[kind]()
    return np.where(on, 1.0, 0.35)
