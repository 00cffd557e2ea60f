"""What lenses and movement do. Pixels are (height, width, 3) in 0..1, lengths in pixels at a side of 224."""

import cv2
import numpy as np
from jaxtyping import Float

from nexus.evals.corruptions.scale import Pixels, Scale

Kernel = Float[np.ndarray, "side side"]

FINE = 8
"""Samples across a pixel of a kernel, so that radii need not be whole."""


def defocus(x: Pixels, radius: float, scale: Scale, rng: np.random.Generator) -> Pixels:
    """Every point becomes a disc: the lens is not focused."""
    return filtered(x, disc(radius * scale.length))


def glass(x: Pixels, reach: float, scale: Scale, rng: np.random.Generator) -> Pixels:
    """Every pixel comes from somewhere within `reach`: frosted glass."""
    reach *= scale.length
    soft = cv2.GaussianBlur(x, (0, 0), max(0.25 * reach, 0.2))
    height, width = x.shape[:2]
    rows, cols = np.mgrid[:height, :width].astype(np.float32)
    shift = rng.uniform(-reach, reach, (2, height, width)).astype(np.float32)
    moved = cv2.remap(soft, cols + shift[0], rows + shift[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return cv2.GaussianBlur(moved, (0, 0), max(0.15 * reach, 0.2))


def motion(x: Pixels, length: float, scale: Scale, rng: np.random.Generator) -> Pixels:
    """Every point becomes a line of some direction: the camera moves."""
    return filtered(x, line(length * scale.length, rng.uniform(0, np.pi)))


def zoom(x: Pixels, most: float, scale: Scale, rng: np.random.Generator) -> Pixels:
    """The mean of pictures magnified by 1 to 1 + `most`: the camera flies towards it."""
    height, width = x.shape[:2]
    factors = np.linspace(1, 1 + most, 16)
    total = np.zeros_like(x)
    for factor in factors:
        centred = np.array(
            [[factor, 0, (1 - factor) * (width - 1) / 2], [0, factor, (1 - factor) * (height - 1) / 2]]
        )
        total += cv2.warpAffine(
            x, centred, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
        )
    return total / len(factors)


def filtered(
    x: Float[np.ndarray, "height width *chans"], kernel: Kernel
) -> Float[np.ndarray, "height width *chans"]:
    """The convolution, mirrored at the borders."""
    return cv2.filter2D(x, -1, kernel, borderType=cv2.BORDER_REFLECT)


def disc(radius: float) -> Kernel:
    """A disc whose edge pixels count by the part of them that it covers."""
    half = int(np.ceil(radius))
    place = _fine(half)
    return _coarse((place[:, None] ** 2 + place[None] ** 2 <= max(radius, 0.5) ** 2).astype(np.float32))


def line(length: float, angle: float) -> Kernel:
    """A line a pixel wide and `length` long, through the middle, at `angle` in radians."""
    half = int(np.ceil(length / 2)) + 1
    place = _fine(half)
    along = place[None] * np.cos(angle) + place[:, None] * np.sin(angle)
    across = place[:, None] * np.cos(angle) - place[None] * np.sin(angle)
    inside = (abs(along) <= max(length, 1) / 2) & (abs(across) <= 0.5)
    return _coarse(inside.astype(np.float32))


def _fine(half: int) -> Float[np.ndarray, " samples"]:
    count = (2 * half + 1) * FINE
    return (np.arange(count) + 0.5) / FINE - half - 0.5


def _coarse(fine: Float[np.ndarray, "fine fine"]) -> Kernel:
    side = len(fine) // FINE
    kernel = fine.reshape(side, FINE, side, FINE).mean(axis=(1, 3))
    return (kernel / kernel.sum()).astype(np.float32)
