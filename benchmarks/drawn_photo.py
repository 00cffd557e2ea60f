"""A JPEG as large and as detailed as a photograph, where no photographs are at hand."""

import io

import numpy as np
from PIL import Image


def photo(width: int, height: int, seed: int) -> bytes:
    """A JPEG with detail at every scale."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (width, height))
    for side in (4, 16, 64, 256):
        noise = Image.fromarray(rng.integers(0, 255, (side, side, 3), dtype=np.uint8))
        image = Image.blend(image, noise.resize((width, height), Image.Resampling.BICUBIC), 0.5)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=90)
    return out.getvalue()
