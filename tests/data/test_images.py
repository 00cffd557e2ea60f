"""Every kind of picture becomes upright 8-bit RGB; everything else is an `ImageError` with a reason."""

import contextlib
import io
import os
import pickle
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageFile

from nexus.data.images import ImageLimits, decode_image, image_header, open_image, read_header
from nexus.errors import ImageError


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def noise(height: int = 20, width: int = 30, channels: int = 3) -> np.ndarray:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def decoded(data: bytes, **limits) -> np.ndarray:
    image = decode_image(data, "x", ImageLimits(**limits))
    assert image.mode == "RGB"
    return np.asarray(image)


def reason(data: bytes, **limits) -> str:
    with pytest.raises(ImageError) as caught:
        decode_image(data, "some/x.png", ImageLimits(**limits))
    assert caught.value.name == "some/x.png"
    return caught.value.reason


def png_claiming(width: int, height: int) -> bytes:
    """A tiny PNG whose header promises more pixels than it has."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "TGA", "ICO"])
def test_lossless_formats_give_their_pixels(kind):
    pixels = noise(32, 32)
    data = encoded(Image.fromarray(pixels), kind, **({"sizes": [(32, 32)]} if kind == "ICO" else {}))
    assert np.array_equal(decoded(data), pixels)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "JPEG2000", "AVIF"])
def test_lossy_formats_give_nearly_their_pixels(kind):
    if kind not in Image.registered_extensions().values():
        pytest.skip(f"this Pillow has no {kind}")
    smooth = np.stack(np.meshgrid(np.arange(64), np.arange(48)), -1).astype(np.uint8) * 3
    pixels = np.concatenate([smooth, smooth[..., :1]], -1)
    got = decoded(encoded(Image.fromarray(pixels), kind))
    assert abs(got.astype(int) - pixels).mean() < 4


def test_grey_and_one_bit_repeat_their_level():
    grey = noise(channels=1)
    assert np.array_equal(decoded(encoded(Image.fromarray(grey))), np.repeat(grey[..., None], 3, 2))
    bits = Image.fromarray((grey > 99).astype(np.uint8) * 255).convert("1", dither=Image.Dither.NONE)
    assert np.array_equal(decoded(encoded(bits))[..., 1], np.where(grey > 99, 255, 0))


def test_transparency_is_composited_on_white():
    rgba = noise(channels=4)
    alpha = rgba[..., 3:].astype(float) / 255
    want = rgba[..., :3] * alpha + 255 * (1 - alpha)
    assert np.abs(decoded(encoded(Image.fromarray(rgba))) - want).max() <= 1
    la = Image.fromarray(rgba).convert("LA")
    grey = np.asarray(la)[..., 0] * alpha[..., 0] + 255 * (1 - alpha[..., 0])
    assert np.abs(decoded(encoded(la))[..., 2] - grey).max() <= 1


def test_transparent_colours_are_white():
    palette = Image.fromarray(noise()).quantize(8)
    opaque = decoded(encoded(palette))
    assert np.array_equal(opaque, np.asarray(palette.convert("RGB")))
    clear = decoded(encoded(palette, transparency=3))
    hidden = np.asarray(palette) == 3
    assert hidden.any()
    assert (clear[hidden] == 255).all()
    assert np.array_equal(clear[~hidden], opaque[~hidden])
    red = Image.new("RGB", (10, 10), (200, 10, 10))
    assert (decoded(encoded(red, transparency=(200, 10, 10))) == 255).all()
    per_entry = encoded(palette, transparency=bytes([0] * 8))
    assert (decoded(per_entry) == 255).all()


def test_cmyk_is_not_inverted():
    red = Image.new("CMYK", (32, 32), (0, 255, 255, 0))
    for data in (encoded(red, "JPEG", quality=95), encoded(red, "TIFF")):
        assert np.abs(decoded(data).mean((0, 1)) - [255, 0, 0]).max() < 6


def test_sixteen_bits_are_divided_by_257():
    values = np.random.default_rng(0).integers(0, 65536, (20, 30), dtype=np.uint16)
    values[0, :2] = 0, 65535
    want = np.rint(values / 257)
    for kind in ("PNG", "TIFF"):
        assert np.array_equal(decoded(encoded(Image.fromarray(values), kind))[..., 0], want)


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        (np.linspace(0, 255, 200), 0, 255),
        (np.linspace(3, 200, 200), 0, 255),
        (np.linspace(0.1, 0.9, 200), 0, 1),
        (np.linspace(300, 40000, 200), 0, 65535),
        (np.linspace(-5, 5, 200), -5, 5),
        (np.linspace(0, 1e9, 200), 0, 1e9),
    ],
)
def test_floats_are_scaled_by_the_stated_rule(values, low, high):
    values = values.reshape(10, 20).astype(np.float32)
    got = decoded(encoded(Image.fromarray(values), "TIFF"))[..., 0]
    assert np.abs(got - (values - low) / (high - low) * 255).max() <= 0.51


def test_integers_and_missing_values():
    values = np.arange(-100, 100, dtype=np.int32).reshape(10, 20)
    got = decoded(encoded(Image.fromarray(values), "TIFF"))[..., 0]
    assert (got[0, 0], got[-1, -1]) == (0, 255)
    holes = np.full((10, 10), 7.0, dtype=np.float32)
    holes[2, 2] = np.nan
    got = decoded(encoded(Image.fromarray(holes), "TIFF"))[..., 0]
    assert got[2, 2] == 0
    assert got[0, 0] == 7
    empty = Image.fromarray(np.full((10, 10), np.nan, np.float32))
    assert reason(encoded(empty, "TIFF")) == "no finite pixel value"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_orientation_is_undone(orientation, kind):
    stored = noise(16, 24)
    undo = {
        1: lambda x: x,
        2: lambda x: x[:, ::-1],
        3: lambda x: x[::-1, ::-1],
        4: lambda x: x[::-1],
        5: lambda x: x.transpose(1, 0, 2),
        6: lambda x: np.rot90(x, -1),
        7: lambda x: x[::-1, ::-1].transpose(1, 0, 2),
        8: lambda x: np.rot90(x),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(Image.fromarray(stored), kind, exif=exif, **options)
    assert np.array_equal(decoded(data), undo(stored))


@pytest.mark.parametrize("orientation", [0, 9, 60000])
def test_impossible_orientation_is_ignored(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert decoded(encoded(Image.fromarray(noise()), exif=exif)).shape == (20, 30, 3)


def test_garbage_exif_is_silent():
    exif = b"Exif\x00\x00II*\x00\x08\x00\x00\x00" + bytes(range(256)) * 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decoded(encoded(Image.fromarray(noise()), "JPEG", exif=exif)).shape == (20, 30, 3)


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "PNG", "WEBP"])
def test_first_of_several_frames(kind):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ((250, 0, 0), (0, 250, 0), (0, 0, 250))]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    assert np.abs(decoded(data)[8, 8].astype(int) - [250, 0, 0]).max() < 8


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "empty file"),
        (b"<html>404 not found</html>", "not an image (text: '<html>404 not found</html>')"),
        (bytes(4096), "zero bytes"),
        (np.random.default_rng(1).bytes(400), "not an image"),
        (b"\xff\xd8\xff\xe0\x00\x10JF", "truncated JPEG"),
        (b"\x89PNG\r\n\x1a\n", "truncated or damaged PNG header"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 90 90\n", "not an image"),
    ],
)
def test_what_is_not_an_image(data, expected):
    assert expected in reason(data)
    with pytest.raises(ImageError, match=r"^a: ") as caught:
        image_header(data, "a")
    assert expected in caught.value.reason


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "TIFF", "PPM", "GIF", "WEBP", "JPEG2000", "AVIF"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_truncation_is_an_error_even_where_others_allow_it(kind, share, monkeypatch):
    data = encoded(Image.fromarray(noise(64, 64)), kind)
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    assert reason(data[: int(len(data) * share)])
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


def test_truncated_jpeg_says_so():
    data = encoded(Image.fromarray(noise(200, 200)), "JPEG")
    assert reason(data[: len(data) // 2]).startswith("truncated JPEG")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"])
def test_flipped_bytes_never_escape_as_another_error(kind):
    sound = encoded(Image.fromarray(noise()), kind)
    rng = np.random.default_rng(0)
    for _ in range(60):
        data = bytearray(sound)
        for at in rng.integers(0, min(len(data), 300), 4):
            data[at] = rng.integers(256)
        with contextlib.suppress(ImageError):
            assert decode_image(bytes(data), "x").mode == "RGB"


def test_bomb_is_refused_from_the_header():
    for side in (50_000, 10_000):  # Pillow's error, and its warning
        limits = {} if side == 50_000 else {"max_pixels": 90_000_000}
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            text = reason(png_claiming(side, side), **limits)
        assert f"{side**2:,} pixels above data.limits.max_pixels" in text
        assert "set data.limits.max_pixels to raise it" in text
    before = Image.MAX_IMAGE_PIXELS
    assert image_header(png_claiming(50_000, 50_000), limits=ImageLimits(max_pixels=10**10))[0] == 50_000
    assert before == Image.MAX_IMAGE_PIXELS


def test_large_but_allowed_does_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert image_header(png_claiming(13_000, 13_000)) == (13_000, 13_000, "RGB")


def test_threads_leave_the_settings_of_pillow_as_they_were():
    before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters)
    sound, cut = encoded(Image.fromarray(noise())), encoded(Image.fromarray(noise(99, 99)), "JPEG")[:900]

    def work(k: int) -> None:
        if k % 2:
            assert decoded(sound, max_pixels=10**9 + k).shape == (20, 30, 3)
        else:
            assert "truncated" in reason(cut)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(200)))
    assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters))


def test_shape_limits():
    assert reason(encoded(Image.new("L", (60_000, 10)))) == (
        "aspect ratio 6000:1 above data.limits.max_aspect=100"
    )
    assert reason(encoded(Image.new("L", (2, 2)))) == "2 x 2 pixels, below data.limits.min_side=8"
    assert decoded(encoded(Image.new("L", (2, 2))), min_side=1).shape == (2, 2, 3)


def test_open_image_and_header(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(Image.new("LA", (12, 9))))
    assert open_image(path).size == (12, 9)
    assert image_header(path) == image_header(str(path)) == image_header(path.read_bytes()) == (12, 9, "LA")
    with path.open("rb") as file:
        assert image_header(file) == (12, 9, "LA")


def test_what_the_file_system_refuses(tmp_path):
    (tmp_path / "loop.png").symlink_to("loop.png")
    os.mkfifo(tmp_path / "pipe.png")
    for path, expected in [
        ("gone.png", "no such file"),
        ("", "a folder, not a file"),
        ("loop.png", "symbolic link loop"),
        ("pipe.png", "not a regular file"),
        ("nul\0.png", "impossible path"),
    ]:
        with pytest.raises(ImageError, match=expected):
            open_image(tmp_path / path)
        with pytest.raises(ImageError, match=expected):
            image_header(str(tmp_path / path))


def test_image_error_and_limits_travel(tmp_path):
    error = pickle.loads(pickle.dumps(ImageError("a", "b")))
    assert (error.name, error.reason) == ("a", "b")
    assert pickle.loads(pickle.dumps(ImageLimits(min_side=3))).min_side == 3


def test_a_jpeg_of_very_many_scans_is_refused_before_it_is_decoded():
    jpeg = encoded(Image.fromarray(noise()), "JPEG", progressive=True)
    assert decoded(jpeg).shape == (20, 30, 3)
    last_scan = jpeg[jpeg.rindex(b"\xff\xda") : -2]
    bomb = jpeg[:-2] + 600 * last_scan + jpeg[-2:]
    assert reason(bomb).startswith("JPEG of 6")
    with pytest.raises(ImageError, match="scans, above 500"):
        read_header(bomb, "x")
