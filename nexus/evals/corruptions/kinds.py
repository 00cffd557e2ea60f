"""The register of corruptions: how each is made, and how strong its five severities are."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8

from nexus.errors import choose
from nexus.evals.corruptions import blur, digital, noise, weather
from nexus.evals.corruptions.scale import Pixels, Scale

SEVERITIES = (1, 2, 3, 4, 5)

Make = Callable[[Pixels, Any, Scale, np.random.Generator], Pixels]


@dataclass(frozen=True)
class Kind:
    """One corruption."""

    group: str
    make: Make
    strengths: tuple[Any, Any, Any, Any, Any]
    """One for each severity; what they mean stands with the function."""


KINDS: dict[str, Kind] = {
    "gaussian_noise": Kind("noise", noise.gaussian, (0.07, 0.11, 0.16, 0.24, 0.36)),
    "shot_noise": Kind("noise", noise.shot, (70, 30, 14, 7, 3.5)),
    "impulse_noise": Kind("noise", noise.impulse, (0.03, 0.06, 0.10, 0.17, 0.28)),
    "defocus_blur": Kind("blur", blur.defocus, (2.0, 3.0, 4.5, 6.5, 9.0)),
    "glass_blur": Kind("blur", blur.glass, (1.2, 1.8, 2.6, 3.8, 5.5)),
    "motion_blur": Kind("blur", blur.motion, (7, 11, 16, 22, 30)),
    "zoom_blur": Kind("blur", blur.zoom, (0.08, 0.13, 0.19, 0.27, 0.36)),
    "snow": Kind("weather", weather.snow, (0.15, 0.25, 0.4, 0.55, 0.75)),
    "frost": Kind("weather", weather.frost, (0.3, 0.45, 0.6, 0.75, 0.9)),
    "fog": Kind("weather", weather.fog, (0.35, 0.47, 0.58, 0.69, 0.8)),
    "brightness": Kind("weather", weather.brightness, (0.1, 0.2, 0.3, 0.4, 0.5)),
    "contrast": Kind("digital", digital.contrast, (0.45, 0.34, 0.25, 0.18, 0.12)),
    "elastic_transform": Kind("digital", digital.elastic, (2.0, 3.2, 4.8, 6.8, 9.5)),
    "pixelate": Kind("digital", digital.pixelate, (1.8, 2.5, 3.5, 5.0, 7.0)),
    "jpeg_compression": Kind("digital", digital.jpeg, (28, 20, 14, 9, 5)),
}

GROUPS = tuple(dict.fromkeys(kind.group for kind in KINDS.values()))


def corrupt(
    pixels: UInt8[np.ndarray, "height width 3"], kind: str, severity: int, *, seed: int = 0, name: str = ""
) -> UInt8[np.ndarray, "height width 3"]:
    """A picture with one corruption. The same `seed`, `name`, kind and severity give the same picture.

    `name` is the image's, so that no two images share their noise. Raises `ConfigError` for an unknown kind.
    """
    chosen = choose(kind, KINDS, "corruption")
    assert severity in SEVERITIES
    words = (seed, zlib.crc32(kind.encode()), severity, zlib.crc32(name.encode("utf-8", "surrogateescape")))
    rng = np.random.default_rng(words)
    scale = Scale.of(*pixels.shape[:2])
    made = chosen.make(pixels.astype(np.float32) / 255, chosen.strengths[severity - 1], scale, rng)
    return np.rint(np.clip(made, 0, 1) * 255).astype(np.uint8)
