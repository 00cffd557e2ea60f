"""What processing does. Pixels are (height, width, 3) in 0..1, lengths in pixels at a side of 224."""

import cv2
import numpy as np

from nexus.evals.corruptions.scale import Pixels, Scale


def contrast(x: Pixels, kept: float, scale: Scale, rng: np.random.Generator) -> Pixels:
    """Differences from the mean colour shrink to a share `kept`."""
    mean = x.mean(axis=(0, 1), keepdims=True)
    return mean + (x - mean) * kept


def elastic(x: Pixels, shift: float, scale: Scale, rng: np.random.Generator) -> Pixels:
    """The picture is painted on rubber: smooth shifts, of standard deviation `shift`."""
    height, width = x.shape[:2]
    smooth = 14 * scale.length
    rows, cols = np.mgrid[:height, :width].astype(np.float32)
    fields = []
    for _ in range(2):
        field = cv2.GaussianBlur(rng.normal(size=(height, width)).astype(np.float32), (0, 0), max(smooth, 1))
        fields.append(field / max(float(field.std()), 1e-9) * shift * scale.length)
    return cv2.remap(x, cols + fields[0], rows + fields[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


def pixelate(x: Pixels, block: float, scale: Scale, rng: np.random.Generator) -> Pixels:
    """Squares of one colour, about `block` pixels wide."""
    height, width = x.shape[:2]
    block = 1 + (block - 1) * scale.dirt if scale.length < 1 else block * scale.length
    small = (max(1, round(width / block)), max(1, round(height / block)))
    return cv2.resize(
        cv2.resize(x, small, interpolation=cv2.INTER_AREA), (width, height), interpolation=cv2.INTER_NEAREST
    )


def jpeg(x: Pixels, quality: float, scale: Scale, rng: np.random.Generator) -> Pixels:
    """Saved as JPEG of a low `quality` (1..100)."""
    quality = 100 - (100 - quality) * scale.dirt
    pixels = np.rint(np.clip(x, 0, 1) * 255).astype(np.uint8)
    _, data = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, round(quality)])
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert decoded is not None
    return decoded[..., ::-1].astype(np.float32) / 255
