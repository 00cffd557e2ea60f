"""Thousands of damaged images through the crop engine: nothing may crash, hang, grow or be half read.

    python -m benchmarks.fuzz_images 10000

Small pictures of every kind that Pillow writes, changed by flipped bits, cuts, repeated, removed and inserted
bytes. Each must give crops or an `ImageError`; where the fast JPEG decoder gives pixels, Pillow must give the
same ones.
"""

import io
import resource
import sys
import time

import numpy as np
from PIL import Image

from nexus.data.crops.parameters import UNIFORMS
from nexus.data.images import ImageLimits, decode_image
from nexus.data.jpeg import fast_pixels
from nexus.data.multicrop import MultiCropAugmentation
from nexus.data.picture import EncodedPicture
from nexus.errors import ImageError

LIMITS = ImageLimits(max_pixels=4_000_000)
KINDS = {
    "JPEG": ({}, {"progressive": True}, {"quality": 30}, {"subsampling": 0}),
    "PNG": ({}, {"optimize": True}),
    "TIFF": ({}, {"compression": "tiff_lzw"}, {"compression": "tiff_adobe_deflate"}),
    "WEBP": ({}, {"lossless": True}),
    "GIF": ({},),
    "BMP": ({},),
    "PPM": ({},),
    "JPEG2000": ({},),
    "TGA": ({},),
    "ICO": ({},),
}
MODES = ("RGB", "L", "P", "RGBA", "CMYK", "I;16", "1")


def originals() -> list[bytes]:
    """One sound file for each kind, option and mode that goes together."""
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    base = small.resize((60, 44), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = 6
    files = []
    for kind, options in KINDS.items():
        for option in options:
            for mode in MODES:
                file = io.BytesIO()
                try:
                    picture = base.convert("L").convert(mode) if mode == "I;16" else base.convert(mode)
                    picture.save(file, kind, **option, **({"exif": exif} if kind == "JPEG" else {}))
                except (OSError, KeyError, ValueError):
                    continue
                files.append(file.getvalue())
    return files


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """The bytes with one to four changes."""
    changed = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        at, length = int(rng.integers(len(changed))), int(rng.integers(1, 64))
        match rng.integers(6):
            case 0:
                changed[at] ^= 1 << int(rng.integers(8))
            case 1:
                del changed[max(at, 8) :]
            case 2:
                changed[at:at] = rng.bytes(length)
            case 3:
                del changed[at : at + length]
            case 4:
                changed[at:at] = changed[at : at + length]
            case _:
                changed[at : at + 4] = b"\xff\xff\xff\xff"
        changed = changed or bytearray(b"x")
    return bytes(changed)


def attempt(data: bytes, augmentation: MultiCropAugmentation, uniforms: np.ndarray) -> bool:
    """Whether the image could be used; fails where the engine and Pillow disagree."""
    picture = EncodedPicture(data, "x", LIMITS)
    try:
        crops = augmentation.of(picture, uniforms)
        assert crops.global_crops.shape == (2, 3, 16, 16)
    except ImageError:
        return False
    fast = fast_pixels(data, picture.header, 1)
    assert fast is None or np.array_equal(fast, np.asarray(decode_image(data, "x", LIMITS)))
    return True


def fuzz(count: int, seed: int = 0) -> dict[str, float]:
    """Try `count` damaged images: how many could be used, the slowest in seconds, growth of memory in MiB."""
    augmentation = MultiCropAugmentation(global_size=16, local_size=16, local_crops_number=2)
    files, usable, slowest, began = originals(), 0, 0.0, 0.0
    for number in range(count):
        if number == count // 4:  # after the allocator has settled
            began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        rng = np.random.default_rng((seed, number))
        data = mutated(files[number % len(files)], rng)
        start = time.perf_counter()
        usable += attempt(data, augmentation, rng.random((4, UNIFORMS)))
        slowest = max(slowest, time.perf_counter() - start)
    growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - began) / 1024
    return {
        "tried": count,
        "usable": usable,
        "slowest_seconds": round(slowest, 3),
        "growth_mib": round(growth, 1),
    }


if __name__ == "__main__":
    print(fuzz(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000))
