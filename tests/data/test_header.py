"""Headers of ordinary JPEGs: what Pillow reads, or nothing."""

import io
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from benchmarks.fuzz_images import mutated
from nexus.data.header import Header, exif_orientation, plain_jpeg
from nexus.data.picture import EncodedPicture
from nexus.errors import ImageError

NOISE = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)


def jpeg(mode: str = "RGB", exif: bytes = b"", **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(NOISE).convert(mode).save(file, "JPEG", exif=exif, **options)
    return file.getvalue()


def tags(orientation: int, order: str = "<", kind: int = 3, count: int = 1) -> bytes:
    """EXIF data of two tags, the second of which is an orientation."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, 2)
    other = struct.pack(order + "HHIHH", 0x0100, 3, 1, 7, 0)
    said = struct.pack(order + "HHI", 0x0112, kind, count)
    said += struct.pack(
        order + ("HH" if kind == 3 else "I"), *((orientation, 0) if kind == 3 else (orientation,))
    )
    return head + other + said + bytes(4)


def pillows(data: bytes) -> Header | None:
    """What Pillow says, or None where it says nothing."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            turn = image.getexif().get(0x0112, 1)
            return Header(*image.size, image.mode, str(image.format), turn if turn in range(2, 9) else 1)
    except Exception:
        return None


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("orientation", range(10))
def test_orientations(orientation: int, order: str) -> None:
    data = jpeg(exif=b"Exif\0\0" + tags(orientation, order))
    found = plain_jpeg(data)
    assert found == pillows(data)
    assert found is not None
    assert found.orientation == (orientation if 1 <= orientation <= 8 else 1)


@pytest.mark.parametrize(
    ("mode", "options"),
    [("RGB", {}), ("L", {}), ("RGB", {"subsampling": 0, "comment": b"x", "icc_profile": b"y" * 70_000})],
)
def test_ordinary_files(mode: str, options: dict) -> None:
    data = jpeg(mode, **options)
    assert plain_jpeg(data) == pillows(data) == Header(40, 24, mode, "JPEG", 1)


XMP = b'http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation=\'6\' a="tiff:Orientation="6"/>'
STRANGE = {
    "progressive": jpeg(progressive=True),
    "inks": jpeg("CMYK"),
    "orientation in XMP": jpeg()[:2] + b"\xff\xe1" + struct.pack(">H", len(XMP) + 2) + XMP + jpeg()[2:],
    "orientation of another type": jpeg(exif=b"Exif\0\0" + tags(6, kind=4)),
    "fill bytes": jpeg()[:2] + b"\xff" + jpeg()[2:],
    "cut off": jpeg()[:100],
    "no JPEG": b"GIF89a",
    "nothing": b"",
}


@pytest.mark.parametrize("name", STRANGE)
def test_others_are_left_to_pillow(name: str) -> None:
    assert plain_jpeg(STRANGE[name]) is None


def test_an_orientation_in_xmp_is_applied() -> None:
    assert EncodedPicture(STRANGE["orientation in XMP"], "x").size == (24, 40)


def test_unclear_tags() -> None:
    assert exif_orientation(tags(6)) == 6
    assert exif_orientation(tags(6).replace(struct.pack("<H", 0x0112), b"\0\0")) == 1
    twice = tags(6).replace(struct.pack("<H", 0x0100), struct.pack("<H", 0x0112))
    for unclear in (b"", b"XX" + tags(6)[2:], tags(6)[:20], tags(6, count=2), twice):
        assert exif_orientation(unclear) is None


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([jpeg(exif=b"Exif\0\0" + tags(6)), jpeg("L"), jpeg(comment=b"x" * 50)]),
)
def test_damaged_files(seed: int, sound: bytes) -> None:
    """Where both say something, it is the same."""
    data = mutated(sound, np.random.default_rng(seed))
    found, usual = plain_jpeg(data), pillows(data)
    assert found is None or usual is None or found == usual


def test_a_file_that_repeats_its_scan_is_no_bomb() -> None:
    """A thousand scans behind the only one that an ordinary file has."""
    data = jpeg()
    scan = data[data.index(b"\xff\xda") : -2]
    picture = EncodedPicture(data[:-2] + scan * 1000 + data[-2:], "x")
    assert picture.size == (40, 24)
    with pytest.raises(ImageError, match="JPEG of 1,001 scans"):
        picture.pixels()
