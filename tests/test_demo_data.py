"""The demo's data set: ten photographs in tiles."""

import csv
import hashlib
import io
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from benchmarks import make_demo_data
from nexus.data.datasets import open_dataset
from nexus.demo import demo_data
from nexus.demo.pictures import assemble, tile_of
from nexus.demo.source import DEMO_NAME, Mosaic, whole_photo
from nexus.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]
PACK = ROOT / "../shared/data/large-photos"
CLASSES = tuple(make_demo_data.CLASSES.values())
COUNTS = {"train": 1812, "test": 636}


def manifest() -> list[dict[str, str]]:
    with (demo_data() / "manifest.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def place(key: str) -> tuple[str, int, int]:
    photo, row, column = key.rsplit("_", 2)
    return photo, int(row[1:]), int(column[1:])


def test_counts_sizes_and_licence() -> None:
    folder, rows = demo_data(), manifest()
    assert Counter(line["split"] for line in rows) == COUNTS
    assert f"{len(rows):,} tiles" in DEMO_NAME
    assert {(int(line["label"]), line["class"]) for line in rows} == set(enumerate(CLASSES))
    assert len({line["key"] for line in rows}) == len(rows)
    for split in COUNTS:
        with tarfile.open(folder / f"photos-{split}.tar") as tar:
            members = tar.getmembers()
            assert [m.name for m in members] == [r["file"] for r in rows if r["split"] == split]
            assert {(m.mtime, m.uid, m.uname) for m in members} == {(0, 0, "")}
            image = Image.open(io.BytesIO(tar.extractfile(members[0]).read()))
            assert (image.size, image.format) == ((64, 64), "JPEG")
            assert not image.getexif()
    readme = (folder / "README.md").read_text()
    assert "You are free to use these media files however you wish" in readme
    shipped = [path for path in folder.iterdir() if path.suffix in {".tar", ".csv"}]
    assert len(shipped) == 3
    assert sum(path.stat().st_size for path in shipped) <= 6 * 1024**2
    for path in shipped:
        assert hashlib.sha256(path.read_bytes()).hexdigest() in readme


def test_splits_are_blocks_of_nine_tiles_and_the_readme_says_how_many_touch() -> None:
    where = {place(line["key"]): line["split"] for line in manifest()}
    blocks: dict[tuple[str, int, int], set[str]] = {}
    for (photo, row, column), split in where.items():
        blocks.setdefault((photo, row // 3, column // 3), set()).add(split)
    assert all(len(splits) == 1 for splits in blocks.values())
    around = [(1, 0), (-1, 0), (0, 1), (0, -1)]
    touching = sum(
        any(where.get((photo, row + down, column + right)) == "train" for down, right in around)
        for (photo, row, column), split in where.items()
        if split == "test"
    )
    assert f"{touching} of the 636 test tiles border" in (demo_data() / "README.md").read_text()


@pytest.mark.parametrize(("split", "count"), [("train", 1812), ("test", 636), (None, 2448)])
def test_opens_as_a_data_set(split: str | None, count: int) -> None:
    images = open_dataset(demo_data(), split)
    assert len(images) == count
    assert images.classes == CLASSES
    sample = images[count - 1]
    assert sample.name.startswith(CLASSES[sample.label])
    assert sample.image.size == (64, 64)


def test_is_made_by_its_script(tmp_path) -> None:
    if not PACK.is_dir():
        pytest.skip("the source pack large-photos is not beside the repository")
    script = ROOT / "benchmarks/make_demo_data.py"
    subprocess.run([sys.executable, script, PACK, tmp_path], check=True, capture_output=True)
    made = (tmp_path / "manifest.csv").read_bytes()
    assert made == (demo_data() / "manifest.csv").read_bytes()
    for split in COUNTS:
        name = f"photos-{split}.tar"
        with tarfile.open(tmp_path / name) as ours, tarfile.open(demo_data() / name) as shipped:
            assert ours.getnames() == shipped.getnames()
            sizes = [(m.size, n.size) for m, n in zip(ours, shipped, strict=True)]
        # Another JPEG library may differ by some bytes, not by a tenth.
        assert all(abs(mine - theirs) <= 0.1 * theirs for mine, theirs in sizes)


def test_a_whole_photo_is_the_source_again() -> None:
    """The turned one: its tiles together are the upright original, shrunk, but for JPEG's losses."""
    if not PACK.is_dir():
        pytest.skip("the source pack large-photos is not beside the repository")
    photo = whole_photo("abbey")
    with tarfile.open(PACK / "large-photos-all.tar") as tar:
        jpeg = tar.extractfile("Samsung_SM_J327T1.jpg").read()
    source = ImageOps.exif_transpose(Image.open(io.BytesIO(jpeg))).convert("RGB")
    assert source.height > source.width
    assert photo.size == (896, 1152)
    scale = source.height / 1200
    expected = source.resize(photo.size, Image.Resampling.BOX, (0, 0, 896 * scale, 1152 * scale))
    difference = np.abs(np.asarray(photo, dtype=float) - np.asarray(expected, dtype=float))
    assert difference.mean() < 4
    turned = np.asarray(photo.transpose(Image.Transpose.ROTATE_180), dtype=float)
    assert np.abs(turned - np.asarray(expected, dtype=float)).mean() > 20


def test_a_wrong_photo_is_answered_with_the_right_ones() -> None:
    with pytest.raises(ConfigError, match="did you mean 'whale'"):
        whole_photo("wale")


def test_assemble_lays_tiles_as_in_the_photo() -> None:
    whole = torch.arange(2 * 4 * 3 * 5 * 3.0).view(2 * 4, 3 * 5, 3)
    tiles = [whole[4 * i : 4 * i + 4, 5 * j : 5 * j + 5] for i in range(2) for j in range(3)]
    assert torch.equal(assemble(torch.stack(tiles), Mosaic(tuple(range(6)), 2, 3)), whole)


@pytest.mark.parametrize(("contrast", "below"), [(0, 0), (0.5, 33), (1, 65)])
def test_tiles_are_chosen_by_contrast_alone(contrast: float, below: int) -> None:
    images = open_dataset(demo_data(), "test")
    row = tile_of(images, "city-hall", contrast)
    assert images.classes[images.label(row)] == "city-hall"
    rows = np.flatnonzero(images.labels == images.label(row)).tolist()
    spread = {i: np.asarray(images[i].image.convert("L")).std() for i in rows}
    assert sum(value < spread[row] for value in spread.values()) == below
