"""Weather, all of it computed. Pixels are (height, width, 3) in 0..1, lengths in pixels at a side of 224."""

import cv2
import numpy as np
from jaxtyping import Float

from nexus.evals.corruptions.blur import filtered, line
from nexus.evals.corruptions.scale import Pixels, Scale

Map = Float[np.ndarray, "height width"]

ICE = np.array([0.86, 0.93, 1.0], dtype=np.float32)
"""The colour of frost."""


def brightness(x: Pixels, more: float, scale: Scale, rng: np.random.Generator) -> Pixels:
    """`more` value in HSV, with hue and saturation kept: overexposed."""
    hsv = cv2.cvtColor(x, cv2.COLOR_RGB2HSV)
    hsv[..., 2] = np.clip(hsv[..., 2] + more, 0, 1)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def fog(x: Pixels, density: float, scale: Scale, rng: np.random.Generator) -> Pixels:
    """A bright veil in clouds, on average `density` thick."""
    veil = np.clip(density * (0.75 + 0.5 * clouds(x.shape[0], x.shape[1], 2.2, rng)), 0, 1)[..., None]
    return x * (1 - veil) + veil * np.float32(0.93)


def snow(x: Pixels, amount: float, scale: Scale, rng: np.random.Generator) -> Pixels:
    """Flakes that fall, small ones far away and larger ones near, and a picture that turns pale."""
    grey = x.mean(axis=2, keepdims=True)
    pale = x + 0.5 * amount * (np.maximum(x, 0.6 * grey + 0.4) - x)
    angle = np.pi / 2 + rng.uniform(-0.6, 0.6)
    white = np.zeros(x.shape[:2], dtype=np.float32)
    for size, share in ((1.0, 1.0), (2.0, 0.6), (3.5, 0.35)):
        white = np.maximum(
            white, _flakes(x.shape[0], x.shape[1], size * scale.length, share * amount, angle, rng)
        )
    return pale + (1 - pale) * white[..., None]


def frost(x: Pixels, cover: float, scale: Scale, rng: np.random.Generator) -> Pixels:
    """Needles of ice that cross at 60 degrees, denser towards the borders, on a pane that is misted."""
    height, width = x.shape[:2]
    first = rng.uniform(0, np.pi)
    needles = np.zeros((height, width), dtype=np.float32)
    for turn in range(3):
        for length, share in ((60.0, 0.008), (25.0, 0.02)):
            length *= scale.length
            seeds = (rng.random((height, width)) < share).astype(np.float32) * rng.random((height, width))
            streaks = filtered(seeds.astype(np.float32), line(length, first + turn * np.pi / 3))
            needles = np.maximum(needles, streaks * max(length, 1) ** 0.75 * 0.9)
    where = clouds(height, width, 2.0, rng) * 0.7 + 0.6 * _border(height, width)
    ice = np.clip(cover * 1.5 * where * (0.35 + 1.1 * np.clip(needles, 0, 1)), 0, 0.95)[..., None]
    return x * (1 - ice) + ICE * ice


def clouds(height: int, width: int, roughness: float, rng: np.random.Generator) -> Map:
    """Noise in 0..1 whose power falls as frequency to `-roughness`: structure of every size."""
    down, across = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    frequency = np.sqrt((down * height) ** 2 + (across * width) ** 2)
    frequency[0, 0] = 1
    waves = np.fft.rfft2(rng.normal(size=(height, width))) / frequency ** (roughness / 2 + 0.5)
    waves[0, 0] = 0
    noise = np.fft.irfft2(waves, s=(height, width))
    low, high = np.percentile(noise, (2, 98))
    return np.clip((noise - low) / max(high - low, 1e-9), 0, 1).astype(np.float32)


def _flakes(
    height: int, width: int, size: float, amount: float, angle: float, rng: np.random.Generator
) -> Map:
    """Blurred dots, drawn out along `angle`; `amount` 1 covers a good tenth of the picture."""
    spread = max(size, 0.4)
    share = min(0.5, 0.016 * amount / spread**2)
    dots = (rng.random((height, width)) < share).astype(np.float32)
    soft = cv2.GaussianBlur(dots, (0, 0), 0.55 * spread)
    streaks = filtered(soft, line(5 * spread, angle))
    return np.clip(streaks * (10 * spread**2), 0, 1)


def _border(height: int, width: int) -> Map:
    """0 in the middle, 1 in the corners."""
    rows, cols = np.linspace(-1, 1, height), np.linspace(-1, 1, width)
    return np.sqrt((rows[:, None] ** 2 + cols[None] ** 2) / 2).astype(np.float32)
