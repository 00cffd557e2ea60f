"""`nexus data`: scan, stats, pack and crops, from Python and from the command line."""

import csv
import hashlib
import json
import shlex
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nexus import cli
from nexus.data.datasets import open_dataset
from nexus.data.picture import Look
from nexus.data.preparation import measure, pack, survey, write_sheet
from nexus.data.preparation.packing import parse_bytes
from nexus.demo.source import demo_data
from nexus.errors import ConfigError, DataError, RunError
from tests.data.making import stack

RNG = np.random.default_rng(1)


def smooth(height: int, width: int, chans: int = 3) -> np.ndarray:
    coarse = RNG.random((3, 3, chans)) * 255
    bands = [
        np.asarray(Image.fromarray(coarse[:, :, c].astype(np.uint8)).resize((width, height), 3))
        for c in range(chans)
    ]
    return np.stack(bands, axis=2)


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes; every kind of file, and every kind of trouble."""
    root = tmp_path_factory.mktemp("album")
    for name in ("cat", "dog"):
        (root / name).mkdir()
    for i in range(8):
        Image.fromarray(smooth(90, 120)).save(root / "cat" / f"{i}.jpg", quality=90)
    shutil.copy(root / "cat" / "0.jpg", root / "dog" / "copy.jpg")
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(smooth(90, 120)).save(root / "dog" / "turned.jpg", exif=turned)
    Image.fromarray(smooth(200, 300)).save(root / "dog" / "large.png")
    Image.fromarray(smooth(40, 300)).save(root / "dog" / "strip.png")
    Image.fromarray(smooth(96, 96, 4)).save(root / "dog" / "alpha.png")
    Image.fromarray(smooth(96, 96, 1)[:, :, 0]).save(root / "dog" / "grey.png")
    Image.fromarray(smooth(120, 96, 1)[:, :, 0].astype(np.uint16) * 200).save(root / "dog" / "deep.png")
    Image.fromarray(RNG.random((96, 96)).astype(np.float32)).save(root / "dog" / "float.tif")
    (root / "dog" / "broken.jpg").write_bytes((root / "cat" / "1.jpg").read_bytes()[:700])
    return root


# --- scan -----------------------------------------------------------------------------------------


def test_scan(album: Path) -> None:
    seen = []
    found = survey(album, workers=2, progress=lambda done, total: seen.append((done, total)))
    assert (found.images, found.examined) == (17, 17)
    assert seen == [(i, 17) for i in range(1, 18)]
    assert [fault.name for fault in found.unreadable] == ["dog/broken.jpg"]
    assert found.duplicates == (("cat/0.jpg", "dog/copy.jpg"),)
    assert found.superfluous == 1
    assert found.compared == "sha256 of the files"
    assert found.tiny == ("dog/strip.png",)
    assert found.extreme == ("dog/strip.png",)
    assert found.channels == {"3": 12, "1": 3, "4": 1}
    assert found.bits == {"8": 14, "16": 1, "32": 1}
    assert found.modes == {"RGB": 12, "RGBA": 1, "I;16": 1, "F": 1, "L": 1}
    assert found.sides["shorter side"] == (40, 90, 200)
    assert found.sides["width"][0] == 90, "upright"
    assert survey(album, workers=0).as_json() == found.as_json()
    assert survey(album, limit=3).examined == 3


def test_scan_of_arrays_compares_the_values(tmp_path: Path) -> None:
    values = np.concatenate([stack(5), stack(5)[:1]]).astype(np.int16)
    np.save(tmp_path / "a.npy", values)
    found = survey(tmp_path / "a.npy")
    assert found.compared == "sha256 of the values"
    assert found.modes == {"5 x int16": 7}
    assert found.duplicates == (("a/000000", "a/000006"),)
    with pytest.raises(ConfigError, match="limit=0"):
        survey(tmp_path / "a.npy", limit=0)


# --- stats ----------------------------------------------------------------------------------------


def test_stats_are_those_of_all_pixels_at_once(album: Path) -> None:
    found = measure(album, workers=2)
    data = open_dataset(album)
    good = [i for i in range(len(data)) if data.name(i) != "dog/broken.jpg"]
    flat = np.concatenate([np.asarray(data.picture(i).pixels()).reshape(-1, 3) for i in good]) / 255
    assert np.allclose(found.stats.mean, flat.mean(axis=0), atol=1e-6)
    assert np.allclose(found.stats.std, flat.std(axis=0), atol=1e-6)
    assert (found.stats.images, found.stats.pixels) == (16, len(flat))
    assert found.settings()[0].startswith("data.mean=[0.")
    assert measure(album, workers=0).as_json() == found.as_json()


def test_native_stats_do_not_count_missing_pixels(tmp_path: Path) -> None:
    values = RNG.random((5, 12, 10, 4)).astype(np.float32)
    values[1, 2:5] = np.nan
    values[..., 3] = 0.25
    np.save(tmp_path / "a.npy", values)
    found = measure(f"{tmp_path}/a.npy?layout=HWC", "native")
    good = values[np.isfinite(values).all(axis=3)]
    assert np.allclose(found.stats.mean, good.mean(axis=0, dtype=np.float64), atol=1e-6)
    assert np.allclose(found.stats.std[:3], good.std(axis=0, dtype=np.float64)[:3], atol=1e-6)
    assert found.stats.std[3] == 1.0, "a constant channel is not divided by nothing"
    assert found.stats.pixels == len(good)
    assert found.settings()[:2] == ["data.channels=native", "data.value_range=[0.0, 1.0]"]


def test_what_stats_says_can_be_pasted(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    np.save(tmp_path / "a.npy", (RNG.random((8, 32, 32, 5)) * 255).astype(np.uint8))
    spec = f"{tmp_path}/a.npy"
    assert cli.run(["data", "stats", spec, "--channels", "native", "--out", f"{tmp_path}/s.json"]) == 0
    line = next(line for line in capfd.readouterr().out.splitlines() if "data.mean=" in line)
    settings = shlex.split(line)
    words = ["train", "--recipe", "smoke", "--data", spec, "--out", f"{tmp_path}/run", "--steps", "1"]
    assert cli.run([*words, "schedule.batch_size=4", "online_eval.every=0", *settings]) == 0
    written = json.loads((tmp_path / "run" / "config.json").read_text())["normalization"]
    measured = json.loads((tmp_path / "s.json").read_text())
    assert written == {"mean": measured["mean"], "std": measured["std"]}


# --- pack -----------------------------------------------------------------------------------------


def test_a_pack_opens_as_what_it_was_made_of(album: Path, tmp_path: Path) -> None:
    packed = pack(album, tmp_path / "shards", size=96, shard_size=40_000, workers=2)
    assert (packed.images, packed.unreadable, packed.resumed_at) == (16, 1, 0)
    assert packed.shards > 1
    before, after = open_dataset(album), open_dataset(tmp_path / "shards")
    rows = list(csv.DictReader((tmp_path / "shards" / "manifest.csv").read_text().splitlines()))
    assert len(after) == len(rows) == 16
    assert after.classes == before.classes == ("cat", "dog")
    place = {before.name(i): i for i in range(len(before))}
    native = before.seen_as(Look("native")), after.seen_as(Look("native"))
    for i, row in enumerate(rows):
        old = place[row["source"]]
        assert after.label(i) == before.label(old)
        width, height = before[old].image.size
        scale = min(1, 96 / min(width, height))
        assert after[i].image.size == (round(width * scale), round(height * scale))
        assert (int(row["width"]), int(row["height"])) == after[i].image.size
        shown = before[old].image.resize(after[i].image.size, Image.Resampling.BICUBIC)
        error = np.asarray(after[i].image, dtype=float) - np.asarray(shown)
        assert np.abs(error).mean() < 4, row["source"]
        if row["source"] in ("dog/deep.png", "dog/alpha.png", "dog/float.tif"):
            assert np.array_equal(native[0].picture(old).values(), native[1].picture(i).values())
        if row["source"] == "cat/3.jpg":
            assert after.read(i) == before.read(old)
    endings = {row["source"]: row["file"].rpartition(".")[2] for row in rows}
    assert endings["dog/large.png"] == endings["dog/grey.png"] == endings["dog/turned.jpg"] == "jpg"
    assert endings["dog/alpha.png"] == endings["dog/deep.png"] == "png"
    assert endings["dog/float.tif"] == "tif"
    lines = (tmp_path / "shards" / "SHA256SUMS").read_text().splitlines()
    sums = dict(reversed(line.split("  ")) for line in lines)
    names = {path.name for path in (tmp_path / "shards").iterdir()} - {"SHA256SUMS"}
    assert set(sums) == names
    for name in names:
        digest = hashlib.sha256((tmp_path / "shards" / name).read_bytes()).hexdigest()
        assert sums[name] == digest
    with tarfile.open(tmp_path / "shards" / "shard-000000.tar") as tar:
        assert tar.getnames()[:2] == ["000000000.jpg", "000000000.cls"]
        assert tar.extractfile("000000000.cls").read() == b"0"


class Killed(BaseException):
    """What no handler of the package catches."""


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("at", [1, 6, 13])
def test_a_killed_pack_goes_on_to_the_same_bytes(album: Path, tmp_path: Path, at: int) -> None:
    def stop(done: int, total: int) -> None:
        if done == at:
            raise Killed

    settings = {"size": 64, "shard_size": "20kB"}
    pack(album, tmp_path / "whole", **settings, workers=0)
    with pytest.raises(Killed):
        pack(album, tmp_path / "parts", **settings, workers=2, progress=stop)
    assert not (tmp_path / "parts" / "SHA256SUMS").exists()
    packed = pack(album, tmp_path / "parts", **settings, workers=1)
    assert (packed.resumed_at > 0) is (at > 5)
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


def test_what_cannot_be_packed(album: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "five.npy", stack(5))
    with pytest.raises(DataError, match="5 channels of uint8, which no file in a pack can hold"):
        pack(tmp_path / "five.npy", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    pack(album, tmp_path / "done")
    with pytest.raises(RunError, match="is not empty"):
        pack(album, tmp_path / "done")
    with pytest.raises(Killed):
        pack(album, tmp_path / "half", progress=_stop)
    with pytest.raises(RunError, match="unfinished pack with another quality"):
        pack(album, tmp_path / "half", quality=50)
    for settings in ({"size": 0}, {"quality": 101}, {"shard_size": "big"}, {"shard_size": 0}):
        with pytest.raises(ConfigError, match=next(iter(settings))):
            pack(album, tmp_path / "never", **settings)
    assert [parse_bytes(text) for text in ("256MB", "64k", "1.5 GB", 10)] == [256e6, 64e3, 15e8, 10]


def _stop(done: int, total: int) -> None:
    raise Killed


# --- crops ----------------------------------------------------------------------------------------


def test_sheets(tmp_path: Path) -> None:
    names = write_sheet(demo_data(), tmp_path / "a.png", crops="texture", images=2)
    with Image.open(tmp_path / "a.png") as sheet:
        one = (
            sheet.crop((0, 0, sheet.width, sheet.height // 2)),
            sheet.crop((0, sheet.height // 2, *sheet.size)),
        )
        assert one[0].tobytes() != one[1].tobytes()
        assert sheet.width > 1000
    assert len(set(names)) == 2
    write_sheet(demo_data(), tmp_path / "a.html", images=1)
    page = (tmp_path / "a.html").read_text()
    assert page.count("data:image/png;base64,") == 1
    assert "crops.blur_kernel" in page
    assert "http" not in page
    with pytest.raises(RunError, match="exists"):
        write_sheet(demo_data(), tmp_path / "a.png")
    with pytest.raises(ConfigError, match=r"should end in \.png or \.html"):
        write_sheet(demo_data(), tmp_path / "a.jpg")
    with pytest.raises(ConfigError, match="unknown crop preset 'textur'; did you mean 'texture'"):
        write_sheet(demo_data(), tmp_path / "b.png", crops="textur")


def test_a_sheet_of_many_bands(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", RNG.random((3, 64, 64, 6)).astype(np.float32))
    assert len(write_sheet(tmp_path / "a.npy", tmp_path / "a.png", channels="native", images=9)) == 3


# --- the command line -----------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["scan", "stats", "pack", "crops"])
def test_help_within_80_columns(verb: str, capfd: pytest.CaptureFixture) -> None:
    assert cli.run(["data", verb, "--help"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert not any(line.startswith("   ") for line in lines), "nothing wraps"


def test_the_commands(album: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    assert cli.run(["data", "scan", str(album), "--out", f"{tmp_path}/scan.json"]) == 0
    assert cli.run(["data", "pack", str(album), "--out", f"{tmp_path}/shards", "--size", "64"]) == 0
    assert cli.run(["data", "crops", str(album), "--out", f"{tmp_path}/s.png", "--images", "1"]) == 0
    said = capfd.readouterr().out
    for sentence in (
        "exact duplicates",
        "duplicates: cat/0.jpg = dog/copy.jpg",
        "unreadable: dog/broken.jpg: ",
        "16 images, 1 shard, ",
        "1 images could not be packed",
    ):
        assert sentence in said
    assert json.loads((tmp_path / "scan.json").read_text())["duplicates"]["groups"]
    assert cli.run(["data", "scan", str(album), "--out", f"{tmp_path}/scan.json"]) == 2
    assert "exists" in capfd.readouterr().err
