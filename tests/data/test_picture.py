"""What sources hand to the crop engine: sizes from headers, pixels by stated rules."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from nexus.data.images import ImageLimits, decode_image
from nexus.data.picture import ArrayPicture, EncodedPicture, Look
from nexus.errors import ImageError


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def noise(height: int = 20, width: int = 30, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_size_and_pixels_are_upright(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(noise()), kind, exif=exif)
    picture = EncodedPicture(data, "x")
    want = np.asarray(decode_image(data, "x"))
    assert picture.size == (want.shape[1], want.shape[0]) == ((30, 20) if orientation < 5 else (20, 30))
    assert np.array_equal(picture.pixels(), want)
    assert picture.pixels().flags.c_contiguous


@pytest.mark.parametrize(
    ("image", "chans", "kind"),
    [
        (Image.fromarray(noise()), 3, np.uint8),
        (Image.fromarray(noise(channels=4)), 4, np.uint8),
        (Image.fromarray(noise(channels=1)[..., 0]), 1, np.uint8),
        (Image.fromarray(noise()).convert("LA"), 2, np.uint8),
        (Image.fromarray(noise()).convert("P"), 3, np.uint8),
        (Image.fromarray(noise()).convert("1"), 1, np.uint8),
        (Image.fromarray(noise(channels=1)[..., 0].astype(np.uint16) * 256), 1, np.float32),
    ],
)
def test_native_channels_of_files(image, chans, kind):
    native = EncodedPicture(encoded(image), "x", look=Look("native")).pixels()
    assert native.shape == (20, 30, chans)
    assert native.dtype == kind
    rgb = EncodedPicture(encoded(image), "x").pixels()
    assert rgb.shape == (20, 30, 3)
    assert rgb.dtype == np.uint8
    if chans == 3 or (chans == 1 and kind == np.uint8):
        assert (native == rgb).all()


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("chans", [3, 4])
def test_colour_pngs_of_16_bits_keep_them(chans: int, orientation: int) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (20, 30, chans), dtype=np.uint16)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = deep_png_file(values, exif.tobytes()[6:])
    picture = EncodedPicture(data, "x", look=Look("native"))
    upright = values if orientation == 1 else np.rot90(values, -1)
    assert np.array_equal(picture.values(), upright)
    assert np.allclose(picture.pixels(), upright / 65535, atol=1e-6)
    assert EncodedPicture(data, "x").pixels().dtype == np.uint8
    for end in (len(data) // 2, len(data) - 40):
        with pytest.raises(ImageError):
            EncodedPicture(data[:end], "x", look=Look("native")).pixels()


def deep_png_file(values: np.ndarray, exif: bytes) -> bytes:
    """Chunk by chunk, as the format's specification says."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width, chans = values.shape
    head = struct.pack(">IIBBBBB", width, height, 16, 2 if chans == 3 else 6, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    body = chunk(b"IHDR", head) + chunk(b"eXIf", exif) + chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("values", "value_range", "want"),
    [
        (np.array([0, 65535], np.uint16), None, [0, 1]),
        (np.array([0, 51], np.int32), None, [0, 0.2]),
        (np.array([0, 13107], np.uint32), None, [0, 0.2]),
        (np.array([-1000, 1000], np.int16), None, [0, 1]),
        (np.array([-1000, 1000], np.int16), (-3000, 2000), [0.4, 0.8]),
        (np.array([0.25, np.nan]), None, [0.25, 0]),
        (np.array([0.0, 51.0]), None, [0, 0.2]),
        (np.array([-1.0, 3.0]), None, [0, 1]),
        (np.array([-1.0, 3.0]), (0, 2), [0, 1]),
        (np.array([0, 51], np.uint8), (0, 102), [0, 0.5]),
    ],
)
def test_deep_values_are_scaled_as_stated(values, value_range, want):
    limits = ImageLimits(min_side=1)
    picture = ArrayPicture(values[None], "x", limits, Look("native", value_range))
    assert picture.size == (2, 1)
    assert picture.pixels().dtype == np.float32
    np.testing.assert_allclose(picture.pixels()[0, :, 0], want, atol=1e-6)
    rgb = ArrayPicture(values[None], "x", limits, Look("rgb", value_range)).pixels()
    np.testing.assert_allclose(rgb[0], np.rint(np.array(want) * 255)[:, None].repeat(3, 1))


def test_bytes_of_any_number_of_channels_stay():
    pixels = noise(channels=7)
    assert np.array_equal(ArrayPicture(pixels, "x", look=Look("native")).pixels(), pixels)
    with pytest.raises(ImageError, match="7 channels"):
        ArrayPicture(pixels, "x").pixels()
    assert ArrayPicture(pixels[..., 0] > 99, "x", look=Look("native")).pixels().max() == 255


@pytest.mark.parametrize("array", [np.zeros(3), np.zeros((2, 0, 3)), np.zeros((9, 9), complex)])
def test_arrays_that_are_no_pictures_are_refused(array):
    with pytest.raises(ImageError, match="an array of"):
        ArrayPicture(array, "x")


def test_arrays_obey_the_limits():
    with pytest.raises(ImageError, match="min_side"):
        ArrayPicture(np.zeros((9, 3)), "x")


def test_a_look_with_a_fill_refuses_other_numbers_of_channels():
    array = np.full((9, 9, 5), np.nan, np.float32)
    array[1:] = 0.25
    look = Look("native", fill=(0.1, 0.2, 0.3, 0.4, 0.5))
    pixels = ArrayPicture(array, "x", look=look).pixels()
    assert np.allclose(pixels[0], look.fill)
    assert (pixels[1:] == 0.25).all()
    with pytest.raises(ImageError, match="5 channels, where 2 are expected"):
        ArrayPicture(array, "x", look=Look("native", fill=(0.1, 0.2))).pixels()


def test_native_rgb_is_rgb_also_when_it_is_decoded_smaller():
    data = encoded(Image.fromarray(np.arange(64 * 48 * 3, dtype=np.uint8).reshape(48, 64, 3)), "JPEG")
    for shrink in (1, 2):
        rgb, native = (EncodedPicture(data, "x", look=Look(of)).pixels(shrink) for of in ("rgb", "native"))
        assert np.array_equal(rgb, native)
    assert rgb.shape == (24, 32, 3)
