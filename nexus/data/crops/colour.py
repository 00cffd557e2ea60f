"""Colour, blur and solarization of one crop on the CPU, with OpenCV.

Operations one by one, with clipping and rounding between them, as torchvision applies them to PIL images.
uint8 crops come within 50 dB of its pixels; a fused matrix would be faster and clip elsewhere. float32 crops
in 0..1 are clipped but not rounded. OpenCV wants (height, width, chans), so that is what the operations take.
What needs red, green and blue (saturation, hue, grey) is left out for other numbers of channels.
"""

import math
from collections.abc import Callable, Sequence

import cv2
import numpy as np

from nexus.data.crops.geometry import Planes
from nexus.data.crops.parameters import BLUE, GREEN, RED, CropParameters, CropTable, Operation
from nexus.data.picture import Pixels

cv2.setNumThreads(0)  # one crop is too small to share, and workers are many already

_SAME, _GREY = np.eye(3, 4), np.array([[RED, GREEN, BLUE, 0.0]] * 3)

_TRUNCATE = -0.499
"""OpenCV rounds to the nearest byte and Pillow blends downward; adding this turns the one into the other."""


def recolour(planes: Planes, parameters: CropParameters, kernel: int, threshold: int) -> None:
    """Jitter, grey, blur, solarization as drawn, in place. `kernel`: blur's width; `threshold`: 0..255."""
    if not (parameters.jitter or parameters.grayscale or parameters.blur or parameters.solarize):
        return
    crop = cv2.merge(list(planes)).reshape(*planes.shape[1:], -1)
    in_colour = crop.shape[2] == 3
    for operation, factor in parameters.jitter or ():
        if in_colour or operation in ("brightness", "contrast"):
            crop = ADJUST[operation](crop, factor)
    if parameters.grayscale and in_colour:
        crop = cv2.cvtColor(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB, dst=crop)
    if parameters.blur is not None:
        crop = blur(crop, parameters.blur, kernel)
    if parameters.solarize:
        crop = solarize(crop, threshold)
    cv2.split(crop, list(planes))


def recolour_all(crops: Sequence[Planes], table: CropTable, kernel: int, threshold: int) -> None:
    """`recolour` each of `crops` as its row of the table says."""
    for crop, row in zip(crops, table.rows(), strict=True):
        recolour(crop, row, kernel, threshold)


def _affine(crop: Pixels, factor: float, offset: float) -> Pixels:
    """`factor * crop + offset`, clipped, in place; `offset` counts in the units of the crop."""
    if _is_bytes(crop):
        cv2.addWeighted(crop, factor, crop, 0.0, offset + _TRUNCATE, dst=crop)
        return crop
    crop *= np.float32(factor)
    crop += np.float32(offset)
    return crop.clip(0.0, 1.0, out=crop)


def _is_bytes(crop: Pixels) -> bool:
    return crop.dtype == np.uint8


def adjust_brightness(crop: Pixels, factor: float) -> Pixels:
    """Blend with black, in place."""
    return _affine(crop, factor, 0.0)


def adjust_contrast(crop: Pixels, factor: float) -> Pixels:
    """Blend with the mean brightness, in place; channels that are not RGB each with their own mean."""
    if crop.shape[2] == 3:
        means = cv2.mean(crop)
        mean = RED * means[0] + GREEN * means[1] + BLUE * means[2]
        return _affine(crop, factor, (1.0 - factor) * (math.floor(mean + 0.5) if _is_bytes(crop) else mean))
    for plane, mean in enumerate(crop.mean(axis=(0, 1)).tolist()):
        one = np.ascontiguousarray(crop[:, :, plane : plane + 1])
        crop[:, :, plane : plane + 1] = _affine(one, factor, (1.0 - factor) * mean)
    return crop


def adjust_saturation(crop: Pixels, factor: float) -> Pixels:
    """Blend each pixel with its grey: one matrix, since grey is a weighted sum."""
    matrix = factor * _SAME + (1.0 - factor) * _GREY
    if _is_bytes(crop):
        matrix[:, 3] = _TRUNCATE
        return cv2.transform(crop, matrix)
    return cv2.transform(crop, matrix).clip(0.0, 1.0)


def adjust_hue(crop: Pixels, turns: float) -> Pixels:
    """Turn the hue. Bytes go through 8-bit HSV and steps of 1/255, as in Pillow."""
    if _is_bytes(crop):
        hsv = cv2.cvtColor(crop, cv2.COLOR_RGB2HSV_FULL)
        hsv[:, :, 0] += np.uint8(int(turns * 255) % 256)
        return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL, dst=crop)
    hsv = cv2.cvtColor(crop, cv2.COLOR_RGB2HSV)
    hsv[:, :, 0] = (hsv[:, :, 0] + np.float32(turns * 360.0)) % np.float32(360.0)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB).clip(0.0, 1.0)


def blur(crop: Pixels, sigma: float, kernel: int) -> Pixels:
    """Gaussian blur, edges mirrored, without taps beyond 3.5 sigma, which change no byte."""
    radius = min(kernel // 2, math.ceil(3.5 * sigma))
    row = gaussian(sigma, radius).astype(np.float32)
    blurred = cv2.sepFilter2D(crop, -1, row, row, borderType=cv2.BORDER_REFLECT_101)
    return blurred.reshape(crop.shape)  # OpenCV drops the axis of a single channel


def gaussian(sigma: float, radius: int) -> np.ndarray:
    """The normalised samples of a Gaussian at -radius..radius."""
    samples = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    return samples / samples.sum()


def solarize(crop: Pixels, threshold: int) -> Pixels:
    """Invert what is at least `threshold` (0..255)."""
    if _is_bytes(crop):
        values = np.arange(256)
        table = np.where(values >= threshold, 255 - values, values).astype(np.uint8)
        return cv2.LUT(crop, table).reshape(crop.shape)
    return np.where(crop >= np.float32(threshold / 255), 1.0 - crop, crop).astype(np.float32)


ADJUST: dict[Operation, Callable[[Pixels, float], Pixels]] = {
    "brightness": adjust_brightness,
    "contrast": adjust_contrast,
    "saturation": adjust_saturation,
    "hue": adjust_hue,
}
"""The four operations of colour jitter."""
