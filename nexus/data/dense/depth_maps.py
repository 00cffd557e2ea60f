"""From the file of a depth map to metres.

Whole numbers need a scale, stored numbers per metre: 1000 for millimetres (Kinect, RealSense, NYUv2), 256 for
KITTI. Floating point numbers (`.npy`, TIFF) are metres unless a scale is given. Zero, negative,
NaN and infinite values mean that nothing was measured; they become 0.
"""

import io
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32
from PIL import Image

from nexus.data.images import ImageLimits, decode_with
from nexus.errors import DataError, ImageError

MILLIMETRES = 1000.0
KITTI = 256.0
_NUMPY = b"\x93NUMPY"
_LIMITS = ImageLimits(min_side=1)


@dataclass(frozen=True)
class DepthReader:
    """Reads depth maps of one data set; a `TruthReader`. `scale` is in stored numbers per metre."""

    scale: float | None = None

    def __call__(self, data: bytes, name: str) -> Float32[np.ndarray, "height width"]:
        """Metres, 0 where nothing was measured; `ImageError` for a damaged file, else `DataError`."""
        values = stored_depth(data, name)
        whole = np.issubdtype(values.dtype, np.integer)
        if whole and self.scale is None:
            raise DataError(
                f"{name} holds whole numbers, and what they mean is not said; give the stored numbers per "
                "metre by "
                "depth.scale=1000 (millimetres) or depth.scale=256 (KITTI)"
            )
        metres = values.astype(np.float32) / np.float32(self.scale or 1.0)
        return np.where(np.isfinite(metres) & (metres > 0), metres, np.float32(0))


def stored_depth(data: bytes, name: str) -> np.ndarray:
    """The numbers of a depth file, (height, width), as they are stored."""
    if data.startswith(_NUMPY):
        try:
            values = np.squeeze(np.load(io.BytesIO(data), allow_pickle=False))
        except (ValueError, OSError, EOFError) as error:
            raise ImageError(name, f"not a NumPy array that can be read: {error}") from None
    elif data.startswith(b"\xff\xd8\xff"):
        raise DataError(
            f"{name} is a JPEG, which cannot hold depth: 8 bits, and changed by compression; use PNG"
        )
    else:
        values = np.asarray(_readable(decode_with(data, name, _LIMITS, lambda image, _: image), name))
    if values.ndim != 2 or not values.size:
        raise DataError(f"{name} has the shape {values.shape}, but one depth per pixel is wanted")
    return values


def _readable(image: Image.Image, name: str) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return image
    if image.mode == "L":
        raise DataError(
            f"{name} has 8 bits, too few for depth in metres; it is probably a picture of depth. Use the "
            "16-bit PNG, "
            "TIFF or .npy that it was made from"
        )
    raise DataError(
        f"{name} has the colour mode {image.mode}, a picture of depth perhaps; use its 16-bit PNG"
    )
