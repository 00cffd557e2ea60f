"""Fingerprints of pictures: one for identical pixels, one that survives re-encoding and resizing."""

import hashlib

import numpy as np
from jaxtyping import Bool
from PIL import Image

_FLAT = 2.0
"""Standard deviation of grey levels (0..255) below which a perceptual hash describes only noise."""


def content_hash(image: Image.Image) -> bytes:
    """16 bytes that two pictures share if (and, in practice, only if) mode, size and pixels agree."""
    digest = hashlib.blake2b(f"{image.mode} {image.size}".encode(), digest_size=16)
    if image.mode == "P":
        digest.update(bytes(image.getpalette() or ()))
    digest.update(image.tobytes())
    return digest.digest()


def perceptual_hash(image: Image.Image, hash_size: int = 16) -> Bool[np.ndarray, " bits"] | None:
    """The `hash_size²` signs of the low DCT frequencies of the small grey picture (pHash, by ImageHash).

    `None` for a picture without structure, whose hash would be the same as that of every other such picture.
    """
    import imagehash

    grey = image.convert("RGB").convert("L")
    small = grey.resize((4 * hash_size, 4 * hash_size), Image.Resampling.LANCZOS)
    if np.asarray(small, dtype=np.float32).std() < _FLAT:
        return None
    return np.asarray(imagehash.phash(small, hash_size).hash, dtype=bool).ravel()
