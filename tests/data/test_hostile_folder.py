"""A folder with everything that a real folder holds: each bad entry has a reason, each good one opens."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nexus.data.datasets import ImageDataset, open_dataset, scan
from nexus.errors import DataError, ImageError

GOOD = ("good.png", "sub/good.JPG", "linked/far.png")


def tiny_bomb(side: int = 50_000) -> bytes:
    """A sound 1-bit PNG of `side` x `side` black pixels: some hundred kilobytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    packer = zlib.compressobj(1)
    rows = bytes((side // 8 + 1) * 1000)
    body = b"".join(packer.compress(rows) for _ in range(side // 1000)) + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("hostile") / "imgs"
    far = root.parent / "elsewhere"
    (root / "sub").mkdir(parents=True)
    far.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    photo = Image.fromarray(pixels)
    photo.save(root / "good.png")
    photo.save(root / "sub" / "good.JPG", "JPEG")
    photo.save(far / "far.png")
    jpeg = (root / "sub" / "good.JPG").read_bytes()
    (root / "truncated.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (root / "text.png").write_text("this is no picture\n")
    (root / "empty.jpeg").write_bytes(b"")
    Image.new("L", (60_000, 10)).save(root / "strip.png")
    (root / "bomb.png").write_bytes(tiny_bomb())
    Image.new("RGB", (2, 2)).save(root / "dot.png")
    (root / "self.png").symlink_to("self.png")
    (root / "selfdir").symlink_to("selfdir")
    (root / "sub" / "up").symlink_to("..")
    (root / "here").symlink_to(".")
    (root / "linked").symlink_to(far)
    (root / "linked2").symlink_to(far)
    (root / "gone.webp").symlink_to("nowhere.webp")
    os.mkfifo(root / "pipe.png")
    (root / ".hidden.png").write_bytes(jpeg)
    (root / "notes.txt").write_text("x")
    (root / "Thumbs.db").write_text("x")
    return root


def outcome(data: ImageDataset, i: int) -> str | None:
    """Why image `i` is refused; None where it opens."""
    try:
        return None if data[i].image.size == (120, 90) else "wrong size"
    except ImageError as error:
        return error.reason if error.name == data.name(i) else "wrong name"


def test_a_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="is no regular file"):
        open_dataset(tmp_path / "pipe")


def test_every_bad_entry_is_named_and_every_good_one_opens(folder):
    data = open_dataset(folder)
    outcomes = {data.name(i): outcome(data, i) for i in range(len(data))}
    opened = [name for name, reason in outcomes.items() if reason is None]
    reasons = {name: reason for name, reason in outcomes.items() if reason is not None}
    assert sorted(opened) == sorted(GOOD)
    expected = {
        "truncated.jpg": "truncated JPEG",
        "text.png": "not an image (text: 'this is no picture')",
        "empty.jpeg": "empty file",
        "strip.png": "aspect ratio 6000:1 above data.limits.max_aspect=100",
        "bomb.png": "2,500,000,000 pixels above data.limits.max_pixels",
        "dot.png": "2 x 2 pixels",
    }
    assert reasons.keys() == expected.keys()
    for name, reason in expected.items():
        assert reasons[name].startswith(reason)


def test_entries_that_are_not_images_at_all_are_faults(folder):
    data = open_dataset(folder)
    assert {fault.name: fault.reason for fault in data.faults} == {
        "self.png": "symbolic link loop",
        "selfdir": "symbolic link loop",
        "sub/up": "symbolic link loop",
        "here": "symbolic link loop",
        "gone.webp": "broken symbolic link",
        "pipe.png": "not a regular file",
    }
    assert "2 other files ignored" in data.description


def test_scan_counts_what_headers_show(folder):
    report = scan(open_dataset(folder))
    assert (report.images, report.examined) == (9, 9)
    assert len(report.unreadable) == 6 + 5  # the truncated one has a sound header
    assert report.estimated_unreadable == pytest.approx(5 / 9)
    assert report.sentence() == "found 9 images (11 unreadable), median 120 x 90, RGB 100 %"


def test_the_bomb_is_sound_but_for_its_size():
    with Image.open(io.BytesIO(tiny_bomb(1000))) as image:
        assert image.convert("L").getextrema() == (0, 0)


def test_unreadable_permission(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root reads everything, so taking permissions away does nothing")
    Image.new("L", (9, 9)).save(tmp_path / "a.png")
    Image.new("L", (9, 9)).save(tmp_path / "b.png")
    (tmp_path / "locked").mkdir()
    (tmp_path / "a.png").chmod(0)
    (tmp_path / "locked").chmod(0)
    try:
        data = open_dataset(tmp_path)
        assert [(f.name, "permission denied" in f.reason) for f in data.faults] == [("locked", True)]
        with pytest.raises(ImageError, match="permission denied"):
            data[0]
        assert data[1].name == "b.png"
    finally:
        (tmp_path / "locked").chmod(0o700)


def test_permission_errors_are_understood_whoever_runs_this(tmp_path, monkeypatch):
    Image.new("L", (9, 9)).save(tmp_path / "a.png")
    data = open_dataset(tmp_path)

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(ImageError, match=r"a\.png: unreadable: permission denied"):
        data[0]


def test_a_folder_of_nothing_but_faults(tmp_path):
    (tmp_path / "a.png").symlink_to("a.png")
    with pytest.raises(DataError, match=r"no readable image in .*a\.png \(symbolic link loop\)"):
        open_dataset(tmp_path)


def test_names_that_are_not_utf8(tmp_path):
    raw = os.path.join(os.fsencode(tmp_path), b"caf\xe9.png")
    try:
        with open(raw, "wb") as file:
            Image.new("L", (9, 9)).save(file, "PNG")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    data = open_dataset(tmp_path)
    assert os.fsencode(data[0].name) == b"caf\xe9.png"


def test_vanished_after_listing(tmp_path):
    for name in "ab":
        Image.new("L", (9, 9)).save(tmp_path / f"{name}.png")
    data = open_dataset(tmp_path)
    (tmp_path / "a.png").unlink()
    with pytest.raises(ImageError, match=r"a\.png: no such file"):
        data[0]
    assert data[1].name == "b.png"
