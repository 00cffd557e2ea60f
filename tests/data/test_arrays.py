"""Sources of numbers: NumPy, HDF5, zarr, DICOM, rasters with bands, frames of videos."""

from pathlib import Path

import numpy as np
import pytest

from nexus.data.datasets import open_dataset, scan
from nexus.data.images import ImageLimits
from nexus.data.picture import Look
from nexus.errors import DataError, ImageError
from tests.data.making import hdf5, write_dicom

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def error(spec, **options) -> str:
    with pytest.raises(DataError) as caught:
        open_dataset(spec, **options)
    return str(caught.value)


def native(data, i: int) -> np.ndarray:
    data.look = Look("native")
    return data.picture(i).pixels()


# --- stacks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "layout", "pixels"),
    [
        ((4, 10, 12), "", (10, 12, 1)),
        ((4, 10, 12, 3), "", (10, 12, 3)),
        ((4, 3, 40, 44), "", (40, 44, 3)),
        ((4, 3, 10, 12), "", (10, 12, 3)),
        ((4, 13, 40, 44), "", (40, 44, 13)),
        ((4, 10, 12, 13), "HWC", (10, 12, 13)),
        ((4, 33, 64, 64), "chw", (64, 64, 33)),
    ],
)
def test_where_the_channels_are(tmp_path, shape, layout, pixels):
    values = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    np.save(tmp_path / "a.npy", values)
    data = open_dataset(f"{tmp_path}/a.npy" + (f"?layout={layout}" if layout else ""))
    found = native(data, 2)
    assert found.shape == pixels
    want = values[2] if pixels == shape[1:] or len(shape) == 3 else np.moveaxis(values[2], 0, 2)
    assert np.array_equal(found.reshape(want.shape), want)


def test_which_channels_are_seen_as_rgb(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (2, 10, 12, 5), dtype=np.uint8)
    np.save(tmp_path / "a.npy", values)
    assert np.array_equal(np.asarray(open_dataset(tmp_path / "a.npy")[1].image), values[1, :, :, :3])
    data = open_dataset(f"{tmp_path}/a.npy?bands=5,1,2")
    assert np.array_equal(np.asarray(data[1].image), values[1][:, :, [4, 0, 1]])
    assert np.array_equal(native(data, 1), values[1][:, :, [4, 0, 1]])
    assert np.array_equal(np.asarray(data[1].image), values[1][:, :, [4, 0, 1]])
    with pytest.raises(ImageError, match="has 5 bands, so there is no band 6"):
        open_dataset(f"{tmp_path}/a.npy?bands=6")[0]
    np.save(tmp_path / "b.npy", values[..., :2])
    assert np.array_equal(np.asarray(open_dataset(tmp_path / "b.npy")[0].image)[:, :, 1], values[0, :, :, 0])
    assert data.header(0) == (12, 10, "5 x uint8")
    assert scan(data).sentence() == "found 2 images, median 12 x 10, 5 x uint8 100 %"


@pytest.mark.parametrize("kind", ["uint16", "int16", "float32", "float64"])
def test_deep_values(tmp_path, kind):
    values = (np.arange(2 * 10 * 12).reshape(2, 10, 12) * 10).astype(kind)
    np.save(tmp_path / "a.npy", values)
    found = native(open_dataset(f"{tmp_path}/a.npy?range=100,1100"), 1)
    assert found.dtype == np.float32
    assert np.allclose(found[:, :, 0], ((values[1] - 100.0) / 1000).clip(0, 1), atol=1e-6)
    grey = np.asarray(open_dataset(f"{tmp_path}/a.npy?range=100,1100")[1].image)[:, :, 0]
    assert np.array_equal(grey, np.rint(found[:, :, 0] * 255))


def test_no_data(tmp_path):
    values = np.full((1, 10, 12, 2), 500, dtype=np.int16)
    values[0, 3, 4, 1] = -9999
    values[0, 5, 6] = -9999
    np.save(tmp_path / "a.npy", values)
    data = open_dataset(f"{tmp_path}/a.npy?nodata=-9999&range=0,1000")
    found = native(data, 0)
    assert (found[3, 4].tolist(), found[5, 6].tolist(), found[0, 0].tolist()) == (
        [0.5, 0],
        [0, 0],
        [0.5, 0.5],
    )
    valid = np.ones((10, 12), dtype=bool)
    valid[3, 4] = valid[5, 6] = False
    assert np.array_equal(data.valid(0), valid)
    data.look = Look()
    assert data.valid(0).sum() == 119, "the first band alone is seen"


def test_an_array_of_several(tmp_path):
    hdf5(tmp_path)
    message = error(tmp_path / "a.h5")
    assert "holds 2 arrays that could be images (other (2, 9, 9), train_images (6, 16, 24, 3), " in message
    assert f"name one: {tmp_path}/a.h5:other" in message
    assert "did you mean 'train_images'" in error(f"{tmp_path}/a.h5:train_image")
    assert "is int64 of shape (6,)" in error(f"{tmp_path}/a.h5:train_labels")
    assert "unknown option 'band'; did you mean 'bands'?" in error(f"{tmp_path}/a.h5:other?band=1")
    assert len(open_dataset(f"{tmp_path}/a.h5:other")) == 2


def test_wrong_options(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((2, 10, 10), np.uint8))
    for option, message in {
        "bands=0": "whole numbers from 1 on",
        "bands=red": "bands=red is not a number",
        "range=5": "range is two numbers",
        "range=5,5": "range is two numbers",
        "nodata=1,2": "nodata is one number",
        "layout=XYZ": "known are HWC",
    }.items():
        assert message in error(f"{tmp_path}/a.npy?{option}")
    (tmp_path / "b.tar").write_bytes(b"x")
    assert "it takes no options, so not 'every'" in error(f"{tmp_path}/b.tar?every=2")


@pytest.mark.parametrize(
    "name", ["a.npy", "a.npz", "a.h5", "a.zarr/zarr.json", "a.dcm", "a.mp4", "a.parquet", "a.lmdb"]
)
@pytest.mark.parametrize(
    "content", [b"", b"\x93NUMPY\x01\x00", b"\x89HDF\r\n\x1a\n" + bytes(64), b"PAR1....", b"{}"]
)
def test_damaged_files_are_one_message(tmp_path, name, content):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    assert str(tmp_path) in error(path if "/" not in name else path.parent)


def test_a_file_cut_after_opening(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((9, 100, 100), np.uint8))
    data = open_dataset(tmp_path / "a.npy")
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:9_000])
    with pytest.raises(ImageError, match="its file is damaged") as caught:
        data[0]
    assert caught.value.name == "a/000000"


def test_an_extra_that_is_not_installed(tmp_path, monkeypatch):
    import sys

    hdf5(tmp_path)
    monkeypatch.setitem(sys.modules, "h5py", None)
    message = error(f"{tmp_path}/a.h5:other")
    assert message == 'reading HDF5 needs h5py, which is not installed: pip install "nexus[hdf5]"'


# --- DICOM ----------------------------------------------------------------------------------------


def test_dicom_agrees_with_pydicom(tmp_path):
    import pydicom
    from pydicom.pixels import apply_modality_lut, apply_voi_lut

    stored = np.random.default_rng(0).integers(-200, 1800, (12, 10)).astype(np.int16)
    tags = {
        "RescaleSlope": 1.5,
        "RescaleIntercept": -1024,
        "WindowCenter": [40, 500],
        "WindowWidth": [400, 9],
    }
    write_dicom(tmp_path / "a.dcm", stored, **tags)
    header = pydicom.dcmread(tmp_path / "a.dcm")
    want = apply_voi_lut(apply_modality_lut(header.pixel_array, header), header, index=0)
    low, high = (
        -(2**15) * 1.5 - 1024,
        (2**15 - 1) * 1.5 - 1024,
    )  # pydicom's output range: all that can be stored
    found = native(open_dataset(tmp_path / "a.dcm"), 0)[:, :, 0]
    assert np.allclose(found, (want - low) / (high - low), atol=1e-5)
    assert 0 < (found == 0).sum() < 100
    own = native(open_dataset(f"{tmp_path}/a.dcm?window=0,2000"), 0)[:, :, 0]
    units = stored * 1.5 - 1024
    assert np.allclose(own, ((units + 0.5) / 1999 + 0.5).clip(0, 1), atol=1e-6)


def test_dicom_without_window_inverted_and_with_frames(tmp_path):
    stored = np.arange(3 * 120, dtype=np.uint16).reshape(3, 12, 10)
    write_dicom(tmp_path / "m.dcm", stored, photometric="MONOCHROME1")
    data = open_dataset(tmp_path)
    assert [data.name(i) for i in range(3)] == ["m.dcm#0", "m.dcm#1", "m.dcm#2"]
    for i in range(3):
        span = stored[i] - stored[i].min()
        assert np.allclose(native(data, i)[:, :, 0], 1 - span / span.max(), atol=1e-6)


def test_dicom_faults(tmp_path):
    write_dicom(tmp_path / "a.dcm", np.zeros((12, 10), np.uint16))
    (tmp_path / "b.dcm").write_bytes(b"nothing of the kind")
    (tmp_path / "c.dcm").write_bytes((tmp_path / "a.dcm").read_bytes()[:-100])
    data = open_dataset(tmp_path)
    assert len(data) == 2
    assert [fault.name for fault in data.faults] == ["b.dcm"]
    assert data[0].image.size == (10, 12)
    with pytest.raises(ImageError, match=r"c\.dcm: not a readable DICOM"):
        data[1]
    assert "window is two numbers, CENTRE,WIDTH" in error(f"{tmp_path}?window=40")
    assert "the width of a window is at least 1" in error(f"{tmp_path}?window=40,0")


# --- rasters --------------------------------------------------------------------------------------


@pytest.mark.parametrize("planar", ["separate", "contig"])
def test_rasters_with_bands(tmp_path, planar):
    import tifffile

    values = np.random.default_rng(0).integers(0, 3000, (20, 24, 6)).astype(np.uint16)
    values[2, 3] = 7
    stored = values if planar == "contig" else np.moveaxis(values, 2, 0)
    nodata = [(42113, "s", 2, "7", True)]
    tifffile.imwrite(
        tmp_path / "a.tif", stored, photometric="minisblack", planarconfig=planar, extratags=nodata
    )
    data = open_dataset(f"{tmp_path}?bands=all&range=0,3000")
    want = (values / 3000.0).clip(0, 1)
    want[values == 7] = 0
    assert np.allclose(native(data, 0), want, atol=1e-6)
    assert np.array_equal(data.valid(0), ~(values == 7).any(axis=2))
    three = open_dataset(f"{tmp_path}/a.tif?bands=4,3,2&range=0,3000&nodata=-1")
    assert np.array_equal(
        np.asarray(three[0].image), np.rint((values[:, :, [3, 2, 1]] / 3000).clip(0, 1) * 255)
    )
    assert data.header(0) == (24, 20, "6 x uint16")


def test_rasters_that_pillow_cannot_read_need_no_option(tmp_path):
    import tifffile

    values = np.random.default_rng(0).integers(0, 256, (20, 24, 6), dtype=np.uint8)
    (tmp_path / "x").mkdir()
    tifffile.imwrite(tmp_path / "x" / "a.tif", values, photometric="minisblack", planarconfig="contig")
    for spec in (tmp_path, tmp_path / "x" / "a.tif"):
        data = open_dataset(spec)
        assert np.array_equal(native(data, 0), values)
        assert np.array_equal(np.asarray(data[0].image), values[:, :, :3])
    tifffile.imwrite(tmp_path / "b.tif", values[:, :, :3])
    assert open_dataset(tmp_path / "b.tif").description.startswith("image ")
    (tmp_path / "c.tif").write_bytes(b"II*\x00 and then nothing")
    with pytest.raises(ImageError, match="damaged TIFF"):
        open_dataset(tmp_path / "c.tif")[0]


def test_rasters_of_floats_pages_and_too_many_pixels(tmp_path):
    import tifffile

    values = np.random.default_rng(0).random((4, 20, 24)).astype(np.float32)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="minisblack", metadata={"axes": "CYX"})
    found = native(open_dataset(f"{tmp_path}/a.tif?bands=all"), 0)
    assert np.allclose(found, np.moveaxis(values, 0, 2), atol=1e-6)
    with pytest.raises(ImageError, match="max_pixels=100"):
        open_dataset(f"{tmp_path}?bands=1", limits=ImageLimits(max_pixels=100))[0]
    (tmp_path / "b.tif").write_bytes((tmp_path / "a.tif").read_bytes()[:900])
    with pytest.raises(ImageError, match=r"b\.tif: not a readable TIFF"):
        open_dataset(f"{tmp_path}?bands=1")[1]
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "c.png").write_bytes(b"x")
    assert "options are for TIFF files" in error(f"{tmp_path}/x?bands=1")


# --- video ----------------------------------------------------------------------------------------


def film(path: Path, code: str, count: int = 90) -> None:
    """Frame `i` shows `i` as seven bars, dark or bright."""
    import cv2

    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*code), 25, (112, 32))
    for i in range(count):
        bits = [(i >> k) & 1 for k in range(7)]
        writer.write(
            np.repeat(np.repeat(np.uint8(bits) * 200, 16)[None, :, None], 3, axis=2).repeat(32, axis=0)
        )
    writer.release()


def shown(image) -> int:
    row = np.asarray(image)[16, 8::16, 0]
    return int(sum((int(value) > 100) << k for k, value in enumerate(row)))


@pytest.mark.parametrize(("ending", "code"), [("avi", "MJPG"), ("mp4", "mp4v"), ("avi", "XVID")])
def test_every_frame_at_random(tmp_path, ending, code):
    film(tmp_path / f"a.{ending}", code)
    data = open_dataset(tmp_path / f"a.{ending}")
    assert len(data) == 90
    order = np.random.default_rng(0).permutation(90)
    assert [shown(data[int(i)].image) for i in order] == order.tolist()
    tenth = open_dataset(f"{tmp_path}/a.{ending}?every=20")
    assert [tenth.name(i) for i in range(5)] == [f"a.{ending}#{20 * i:06d}" for i in range(5)]
    assert [shown(tenth[i].image) for i in (3, 1, 4, 0, 2)] == [60, 20, 80, 0, 40]


def test_folders_of_videos(tmp_path):
    for k, name in enumerate(["cat/a.avi", "dog/b.avi", "dog/c.avi"]):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        film(tmp_path / name, "MJPG", 4 + k)
    (tmp_path / "dog" / "d.mp4").write_bytes(b"no video")
    data = open_dataset(f"{tmp_path}?every=2")
    assert [data.name(i) for i in range(len(data))][:4] == [
        *("cat/a.avi#000000", "cat/a.avi#000002", "dog/b.avi#000000", "dog/b.avi#000002")
    ]
    assert data.labels.tolist() == [0, 0, 1, 1, 1, 1, 1, 1]
    assert [fault.name for fault in data.faults] == ["dog/d.mp4"]
    assert len(open_dataset(f"{tmp_path}/dog/*.avi")) == 5 + 6
    assert "every=0 is not a whole number" in error(f"{tmp_path}?every=0")
