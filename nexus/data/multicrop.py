"""Multi-crop augmentation: two large and several small random views of one image.

A crop is made in two steps that never mix: `draw_parameters` takes all random decisions,
`apply_parameters` computes pixels. So any other engine can be compared at equal decisions, and a
contact sheet can say what was done::

    python -m nexus.data.multicrop photo.jpg --out sheet.png --preset official --seed 0

The stages, each crop independently from the whole image (DINOv2, official code)::

    resized crop (bicubic, antialiased) -> flips -> colour jitter -> grey -> blur -> solarize
"""

import math
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from pydantic import AfterValidator, Field, model_validator
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from nexus.config import Config, build
from nexus.data.batch import normalize
from nexus.data.transforms import IMAGENET_MEAN, IMAGENET_STD, Channels, as_rgb, to_tensor
from nexus.errors import ConfigError, choose

Kind = Literal["global1", "global2", "local"]
Operation = Literal["brightness", "contrast", "saturation", "hue"]

TRIES = 10
"""Boxes drawn before the central fallback, as in torchvision's RandomResizedCrop."""


def _ascending(pair: tuple[float, float]) -> tuple[float, float]:
    if not 0 < pair[0] <= pair[1]:
        raise ValueError("should be a pair low, high with 0 < low <= high")
    return pair


Probability = Annotated[float, Field(ge=0.0, le=1.0)]
Strength = Annotated[float, Field(ge=0.0)]
Side = Annotated[int, Field(gt=0)]
Range = Annotated[tuple[float, float], AfterValidator(_ascending)]


class CropConfig(Config):
    """How the crops of an image are made. The defaults are DINOv2's, as trained.

    The official code declares blur probabilities of 1.0, 0.1 and 0.5 but hands their complements to
    torchvision, so the released weights saw 0.0, 0.9 and 0.5. All probabilities here are effective.
    """

    global_size: Side = 224
    """Side of the two global crops, in pixels; a multiple of the patch size."""
    local_size: Side = 96
    """Side of the local crops, in pixels; a multiple of the patch size (98 for patches of 14)."""
    local_number: Annotated[int, Field(ge=0)] = 8
    """Local crops per image; 0 for none."""
    global_scale: Range = (0.32, 1.0)
    """Least and largest share of the image's area that a global crop shows."""
    local_scale: Range = (0.05, 0.32)
    """Least and largest share of the image's area that a local crop shows."""
    ratio: Range = (3 / 4, 4 / 3)
    """Least and largest width / height of the box that becomes a crop; log-uniform between."""
    flip: Probability = 0.5
    """Probability of a left-right flip; 0 where left and right mean something."""
    vertical_flip: Probability = 0.0
    """Probability of an upside-down flip; 0.5 where there is no up, as in microscopy."""
    jitter: Probability = 0.8
    """Probability that brightness, contrast, saturation and hue change, in random order."""
    brightness: Strength = 0.4
    """Largest relative change of brightness: the factor is uniform in 1 - x .. 1 + x."""
    contrast: Strength = 0.4
    """Largest relative change of contrast: the factor is uniform in 1 - x .. 1 + x."""
    saturation: Strength = 0.2
    """Largest relative change of saturation: the factor is uniform in 1 - x .. 1 + x."""
    hue: Annotated[float, Field(ge=0.0, le=0.5)] = 0.1
    """Largest rotation of the hue, in turns of the colour circle, either way."""
    grayscale: Probability = 0.2
    """Probability that a crop loses its colours."""
    blur_global1: Probability = 0.0
    """Probability that the first global crop is blurred."""
    blur_global2: Probability = 0.9
    """Probability that the second global crop is blurred."""
    blur_local: Probability = 0.5
    """Probability that a local crop is blurred."""
    blur_kernel: Side = 9
    """Width of the Gaussian kernel in pixels; odd, less than twice the side of a blurred crop."""
    blur_sigma: Range = (0.1, 2.0)
    """Least and largest standard deviation of the blur in pixels; uniform between."""
    solarize_global2: Probability = 0.2
    """Probability that bright pixels of the second global crop are inverted."""
    solarize_threshold: Annotated[int, Field(ge=0, le=255)] = 128
    """Values from this one on (0..255) are inverted by solarization."""

    @model_validator(mode="after")
    def _consistent(self) -> "CropConfig":
        for name in ("global_scale", "local_scale"):
            if getattr(self, name)[1] > 1:
                raise ValueError(f"{name}={getattr(self, name)}: no crop shows more than 1.0 of it")
        if self.blur_kernel % 2 == 0:
            raise ValueError(f"blur_kernel={self.blur_kernel} is even; take {self.blur_kernel + 1}")
        blurred = {"local_size": self.blur_local * self.local_number}
        blurred["global_size"] = self.blur_global1 + self.blur_global2
        for name, probability in blurred.items():
            if probability > 0 and self.blur_kernel // 2 >= getattr(self, name):
                raise ValueError(
                    f"blur_kernel={self.blur_kernel} is too wide for {name}={getattr(self, name)}; "
                    f"take at most {2 * getattr(self, name) - 1}"
                )
        return self

    def view(self, kind: Kind) -> "View":
        """The settings that differ between the kinds of crop."""
        if kind == "local":
            return View(self.local_size, self.local_scale, self.blur_local, 0.0)
        if kind == "global1":
            return View(self.global_size, self.global_scale, self.blur_global1, 0.0)
        return View(self.global_size, self.global_scale, self.blur_global2, self.solarize_global2)


class View(NamedTuple):
    """One kind of crop: output side, area range, probabilities of blur and of solarization."""

    side: int
    scale: tuple[float, float]
    blur: float
    solarize: float


PRESETS: dict[str, CropConfig] = {
    "official": CropConfig(),
    "byol": CropConfig(blur_global1=1.0, blur_global2=0.1),
    "seed": CropConfig(
        global_scale=(0.4, 1.0),
        local_scale=(0.05, 0.4),
        jitter=1.0,
        saturation=0.4,
        blur_global1=1.0,
        blur_global2=1.0,
        blur_local=1.0,
        blur_kernel=23,
        solarize_global2=0.0,
    ),
}
"""`official`: as DINOv2 was trained. `byol`: as its code declares the blur, and as BYOL does it.
`seed`: one strong pipeline for all crops, from the document that this package grew out of."""


def preset(name: str) -> CropConfig:
    """The crop settings called `name`; see `PRESETS`."""
    return choose(name, PRESETS, "crop preset")


class Box(NamedTuple):
    """A rectangle of the source image, in whole pixels."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class CropParameters:
    """Every random decision of one crop; `None` and `False` mean that a stage is left out."""

    kind: Kind
    box: Box
    flip: bool
    vertical_flip: bool
    jitter: tuple[tuple[Operation, float], ...] | None
    """Operations in the order in which they are applied, each with its factor (hue: turns)."""
    grayscale: bool
    blur: float | None
    """Standard deviation of the blur, in pixels."""
    solarize: bool


@dataclass(frozen=True)
class MultiCrops:
    """The crops of one image as bytes; `parameters` says how: global 1, global 2, local 1, ..."""

    global_crops: UInt8[Tensor, "2 3 side side"]
    local_crops: UInt8[Tensor, "locals 3 local_side local_side"]
    parameters: tuple[CropParameters, ...]


class MultiCropAugmentation:
    """PIL image -> crops, for one image at a time; safe to copy into loader workers.

    The settings are `config`, or else the named preset; the other keywords, with the names of the
    seed's constructor, replace single settings. `mean` and `std` normalise what `__call__` returns.
    """

    def __init__(
        self,
        config: CropConfig | None = None,
        *,
        preset: str = "official",
        global_crops_scale: tuple[float, float] | None = None,
        local_crops_scale: tuple[float, float] | None = None,
        local_crops_number: int | None = None,
        global_size: int | None = None,
        local_size: int | None = None,
        mean: Channels = IMAGENET_MEAN,
        std: Channels = IMAGENET_STD,
    ) -> None:
        base = choose(preset, PRESETS, "crop preset") if config is None else config
        given = {
            "global_scale": global_crops_scale,
            "local_scale": local_crops_scale,
            "local_number": local_crops_number,
            "global_size": global_size,
            "local_size": local_size,
        }
        changed = {name: value for name, value in given.items() if value is not None}
        self.config = build(CropConfig, {**base.model_dump(), **changed})
        self.local_crops_number = self.config.local_number
        self.mean = mean
        self.std = std

    def __call__(self, image: Image.Image) -> list[Float[Tensor, "3 _ _"]]:
        """`[global 1, global 2, local 1, ...]`, normalised float32.

        Random numbers derive from torch's global generator, so `torch.manual_seed` and the seeds
        that a `DataLoader` gives its workers hold.
        """
        if not isinstance(image, Image.Image):
            raise ConfigError(
                f"crops are cut out of PIL images, not of a {type(image).__name__}; pass a data set without "
                "a transform to tensors, and this as its transform"
            )
        seed = int(torch.randint(2**63 - 1, ()).item())
        crops = self.crops(image, np.random.default_rng(seed))
        mean, std = torch.tensor(self.mean), torch.tensor(self.std)
        return [
            *normalize(crops.global_crops, mean, std),
            *normalize(crops.local_crops, mean, std),
        ]

    def crops(self, image: Image.Image, rng: np.random.Generator) -> MultiCrops:
        """The crops of one image of any size as bytes; all randomness comes from `rng`."""
        image = as_rgb(image)
        kinds: list[Kind] = ["global1", "global2"]
        kinds.extend("local" for _ in range(self.config.local_number))
        drawn = tuple(draw_parameters(image.size, kind, self.config, rng) for kind in kinds)
        pixels = [apply_parameters(image, parameters, self.config) for parameters in drawn]
        side = self.config.local_size
        empty = torch.empty((0, 3, side, side), dtype=torch.uint8)
        return MultiCrops(
            global_crops=torch.stack(pixels[:2]),
            local_crops=torch.stack(pixels[2:]) if pixels[2:] else empty,
            parameters=drawn,
        )


def draw_parameters(
    size: tuple[int, int], kind: Kind, config: CropConfig, rng: np.random.Generator
) -> CropParameters:
    """The random decisions for one crop of an image of `size` = (width, height), as in PIL."""
    view = config.view(kind)
    return CropParameters(
        kind=kind,
        box=_draw_box(size, view.scale, config.ratio, rng),
        flip=rng.random() < config.flip,
        vertical_flip=rng.random() < config.vertical_flip,
        jitter=_draw_jitter(config, rng) if rng.random() < config.jitter else None,
        grayscale=rng.random() < config.grayscale,
        blur=_uniform(*config.blur_sigma, rng) if rng.random() < view.blur else None,
        solarize=rng.random() < view.solarize,
    )


def apply_parameters(
    image: Image.Image, parameters: CropParameters, config: CropConfig
) -> UInt8[Tensor, "3 side side"]:
    """One crop of an RGB image: the pixels of torchvision's PIL pipeline at these parameters.

    Blur and solarize work on the tensor: torchvision blurs PIL images through a tensor anyway, so
    this saves two conversions and changes no pixel.
    """
    side = config.view(parameters.kind).side
    top, left, height, width = parameters.box
    if (width, height) != image.size:
        image = image.crop((left, top, left + width, top + height))
    if (width, height) != (side, side):
        image = image.resize((side, side), Image.Resampling.BICUBIC)
    if parameters.flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if parameters.vertical_flip:
        image = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    for operation, factor in parameters.jitter or ():
        image = ADJUST[operation](image, factor)
    if parameters.grayscale:
        image = image.convert("L").convert("RGB")
    pixels = to_tensor(image)
    if parameters.blur is not None:
        pixels = F.gaussian_blur(pixels, [config.blur_kernel] * 2, [parameters.blur] * 2)
    if parameters.solarize:
        pixels = F.solarize(pixels, config.solarize_threshold)
    return pixels


ADJUST = {
    "brightness": F.adjust_brightness,
    "contrast": F.adjust_contrast,
    "saturation": F.adjust_saturation,
    "hue": F.adjust_hue,
}
"""The four operations of colour jitter, on PIL images, where they are faster than on tensors."""


def _draw_box(
    size: tuple[int, int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
    rng: np.random.Generator,
) -> Box:
    """A box with its share of the area uniform in `scale` and its log aspect uniform in `ratio`.

    A box larger than the image is drawn anew, `TRIES` times in all; then the largest central box
    with an allowed aspect is taken. Distribution: torchvision's RandomResizedCrop.
    """
    width, height = size
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for share, aspect, down, across in rng.random((TRIES, 4)).tolist():
        area = width * height * (scale[0] + (scale[1] - scale[0]) * share)
        aspect = math.exp(low + (high - low) * aspect)
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return Box(int(down * (height - h + 1)), int(across * (width - w + 1)), h, w)
    w = min(width, round(height * ratio[1]))
    h = min(height, round(width / ratio[0]))
    return Box((height - h) // 2, (width - w) // 2, h, w)


def _draw_jitter(config: CropConfig, rng: np.random.Generator) -> tuple[tuple[Operation, float], ...]:
    """The jitter operations in random order with their factors, without those of strength 0."""
    factors: list[tuple[Operation, float]] = []
    relative: list[tuple[Operation, float]] = [
        ("brightness", config.brightness),
        ("contrast", config.contrast),
        ("saturation", config.saturation),
    ]
    for operation, strength in relative:
        if strength > 0:
            factors.append((operation, _uniform(max(0.0, 1 - strength), 1 + strength, rng)))
    if config.hue > 0:
        factors.append(("hue", _uniform(-config.hue, config.hue, rng)))
    return tuple(factors[index] for index in rng.permutation(len(factors)))


def _uniform(low: float, high: float, rng: np.random.Generator) -> float:
    return low + (high - low) * rng.random()


if __name__ == "__main__":
    import sys

    from nexus.data.contact_sheet import main

    sys.exit(main())
