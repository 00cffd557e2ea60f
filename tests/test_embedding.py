"""Feature files: each format read back by its own library, every choice of columns, refusals."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from nexus.data.batch import Fault, Sample
from nexus.embedding import Written, embed
from nexus.errors import ConfigError, DataError, RunError
from nexus.features import Features, extract
from nexus.models.vision import VisionTransformer
from nexus.models.vision.fitting import place
from tests.evals.stubs import MemoryImages, TinyBackbone

ENDINGS = (".parquet", ".npy", ".safetensors")
SETTINGS = {"size": 32, "batch_size": 4, "device": "cpu"}


def read(path: Path) -> dict:
    """Columns of a feature file, with the reader of its format."""
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        columns = {"paths": table["path"].to_pylist()}
        for name in table.column_names[1:]:
            shape = json.loads(table.schema.metadata[f"{name}_shape".encode()])
            rows = table[name].to_pylist()
            columns[name] = rows if -1 in shape or None in rows else np.array(rows).reshape(-1, *shape)
        return columns
    if path.suffix == ".npy":
        beside = {p.name.split(".")[1]: np.load(p) for p in path.parent.glob(f"{path.stem}.*.npy")}
        paths = path.with_name(f"{path.stem}.paths.txt").read_text().splitlines()
        return {"first": np.load(path, mmap_mode="r"), "paths": paths, **beside}
    with safe_open(path, "numpy") as file:
        columns = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return {**columns, "paths": json.loads(file.metadata()["paths"])}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("patches", [False, True])
def test_round_trip(tmp_path: Path, ending: str, patches: bool) -> None:
    backbone, images, out = TinyBackbone(), MemoryImages(broken=(3,)), tmp_path / f"new/x{ending}"
    features = ("cls", "mean_patch", "patches") if patches else ("cls", "mean_patch")
    written = embed(images, backbone, out, features=features, **SETTINGS)
    assert isinstance(written, Written)
    columns, expected = read(out), extract(backbone, images, **SETTINGS)
    assert columns["paths"] == list(expected.paths)
    assert written.rows == len(written) == len(columns["paths"]) == 10
    np.testing.assert_array_equal(columns["first" if ending == ".npy" else "cls"], expected.cls)
    np.testing.assert_array_equal(columns["mean_patch"], expected.mean_patch)
    assert columns["mean_patch"].dtype == np.float32 or ending == ".parquet"
    np.testing.assert_array_equal(columns["label"], expected.labels)
    assert ("patches" in columns) == patches
    if patches:
        assert columns["patches"].shape == (10, 4, 4, 6)
        np.testing.assert_allclose(columns["patches"].mean((1, 2)), expected.mean_patch, atol=1e-6)
        np.testing.assert_array_equal(columns["patches_grid"], [[4, 4]] * 10)
        np.testing.assert_array_equal(columns["image_size"], [[40, 46]] * 10)
    assert not list(tmp_path.rglob("*.partial"))
    with (tmp_path / "new/x.unreadable.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["name", "reason"], ["c/003.png", "truncated"]]
    assert (written.unreadable, written.faults) == (1, (Fault("c/003.png", "truncated"),))
    assert written.unreadable_list == tmp_path / "new/x.unreadable.csv"


@pytest.mark.parametrize("ending", ENDINGS)
def test_layers_registers_and_half_precision(tmp_path: Path, ending: str) -> None:
    model = VisionTransformer(
        img_size=32, patch_size=8, embed_dim=16, depth=3, num_heads=2, num_register_tokens=2
    ).eval()
    images, out = MemoryImages(count=5, classes=0), tmp_path / f"x{ending}"
    embed(
        images,
        model,
        out,
        features=["registers", "cls"],
        layers=[1, -1],
        dtype="float16",
        precision="bf16",
        **SETTINGS,
    )
    columns = read(out)
    names = {"registers_l1", "cls_l1", "registers_l3", "cls_l3", "paths"}
    assert set(columns) == (names - {"registers_l1"} | {"first"} if ending == ".npy" else names)
    half = extract(model, images, layers=3, precision="bf16", **SETTINGS)
    np.testing.assert_array_equal(columns["cls_l1"], half.layer_cls[:, 0].half())
    np.testing.assert_array_equal(columns["cls_l3"], half.cls.half())
    assert columns["registers_l3"].shape == (5, 2, 16)
    assert not (tmp_path / "x.unreadable.csv").exists()
    if ending != ".parquet":
        assert columns["cls_l1"].dtype == np.float16


class Sizes:
    """Images of several sizes in a repeating order."""

    SIZES = ((20, 33), (32, 32), (8, 40), (20, 33), (57, 16))

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> str:
        return f"{index}.png"

    def __getitem__(self, index: int) -> Sample:
        height, width = self.SIZES[index % len(self.SIZES)]
        pixels = np.random.default_rng(index).integers(0, 256, (height, width, 3), dtype=np.uint8)
        return Sample(Image.fromarray(pixels), self.name(index), index)


@pytest.mark.parametrize("fit", ["resize", "pad", "crop"])
def test_native_sizes_keep_the_order_and_every_grid(
    tmp_path: Path, fit: str, caplog: pytest.LogCaptureFixture
) -> None:
    backbone, images = TinyBackbone(), Sizes(11)
    features = ("cls", "mean_patch", "patches")
    caplog.set_level("INFO", logger="nexus")
    embed(images, backbone, tmp_path / "x.parquet", features=features, size="native", fit=fit, batch_size=7)
    rows, cols = place(20, 33, 8, fit).frame
    assert caplog.text.count(f"20×33 → {rows}×{cols} (fit={fit})") == caplog.text.count("fit=" + fit) == 1
    columns = read(tmp_path / "x.parquet")
    assert columns["paths"] == [f"{i}.png" for i in range(11)]
    for i in range(11):
        height, width = Sizes.SIZES[i % 5]
        rows, cols = place(height, width, 8, fit).grid
        assert columns["image_size"][i].tolist() == [height, width]
        assert columns["patches_grid"][i].tolist() == [rows, cols]
        patches = np.array(columns["patches"][i]).reshape(rows, cols, 6)
        np.testing.assert_allclose(patches.mean((0, 1)), columns["mean_patch"][i], atol=1e-6)
        alone = extract(backbone, OneOf(images, i), size="native", fit=fit)
        np.testing.assert_allclose(columns["cls"][i], alone.cls[0], atol=1e-6)
    tables = embed(images, backbone, tmp_path / "x.npy", size="native", fit=fit, batch_size=7)
    assert tables.rows == 11
    with pytest.raises(ConfigError, match="have no common shape"):
        embed(images, backbone, tmp_path / "y.npy", features=["patches"], size="native")


class OneOf:
    def __init__(self, images: Sizes, index: int) -> None:
        self.images, self.index = images, index

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Sample:
        return self.images[self.index]


def test_native_sizes_that_do_not_fit_are_listed(tmp_path: Path) -> None:
    written = embed(Sizes(5), TinyBackbone(), tmp_path / "x.npy", size="native", fit="strict")
    assert read(tmp_path / "x.npy")["paths"] == ["1.png", "2.png"]
    assert [fault.name for fault in written.faults] == ["0.png", "3.png", "4.png"]
    assert "20×33 pixels are not whole patches of 8" in written.faults[0].reason


@pytest.mark.parametrize(("size", "shape"), [((24, 40), (24, 40)), ("24x40", (24, 40)), ("32", (32, 32))])
def test_sizes_that_are_not_square(tmp_path: Path, size: object, shape: tuple) -> None:
    backbone = TinyBackbone()
    embed(MemoryImages(count=2), backbone, tmp_path / "x.npy", features=["patches"], size=size)
    assert backbone.shapes[-1] == (2, 3, *shape)
    assert np.load(tmp_path / "x.npy").shape == (2, shape[0] // 8, shape[1] // 8, 6)
    for wrong in ("24x", "big", "0x3"):
        with pytest.raises(ConfigError, match="size"):
            embed(MemoryImages(count=2), backbone, tmp_path / "y.npy", size=wrong)


@pytest.mark.parametrize("chans", [1, 4])
def test_backbones_of_other_channels(tmp_path: Path, chans: int) -> None:
    model = VisionTransformer(img_size=32, patch_size=8, embed_dim=16, depth=1, num_heads=2, in_chans=chans)
    model.normalization = ((0.5,) * chans, (0.2,) * chans)
    images = MemoryImages(count=3)
    if chans == 4:
        with pytest.raises(ConfigError, match="native channels, which a MemoryImages does not offer"):
            embed(images, model, tmp_path / "x.npy", **SETTINGS)
        return
    images.pixels[:] = images.pixels[..., :1]
    embed(images, model, tmp_path / "x.npy", features=["cls"], **SETTINGS)
    colour = VisionTransformer(img_size=32, patch_size=8, embed_dim=16, depth=1, num_heads=2)
    state = model.state_dict()
    weight = torch.zeros(16, 3, 8, 8)
    weight[:, 1:2] = state["patch_embed.proj.weight"]
    colour.load_state_dict({**state, "patch_embed.proj.weight": weight})
    expected = extract(colour, images, mean=(0.5,) * 3, std=(0.2,) * 3, **SETTINGS)
    np.testing.assert_allclose(np.load(tmp_path / "x.npy"), expected.cls, atol=1e-6)


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_existing_file_is_refused_unless_told(tmp_path: Path, ending: str) -> None:
    out = tmp_path / f"x{ending}"
    out.write_text("mine")
    with pytest.raises(RunError, match="overwrite"):
        embed(MemoryImages(), TinyBackbone(), out, **SETTINGS)
    assert out.read_text() == "mine"
    assert embed(MemoryImages(), TinyBackbone(), out, overwrite=True, **SETTINGS).rows == 11
    assert len(read(out)["paths"]) == 11


@pytest.mark.parametrize("beside", ["x.paths.txt", "x.mean_patch.npy", "x.unreadable.csv"])
def test_a_file_beside_is_refused_too_and_a_list_of_before_goes(tmp_path: Path, beside: str) -> None:
    (tmp_path / beside).write_text("mine")
    with pytest.raises(RunError, match=beside):
        embed(MemoryImages(), TinyBackbone(), tmp_path / "x.npy", **SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == [beside]
    embed(MemoryImages(), TinyBackbone(), tmp_path / "x.npy", overwrite=True, **SETTINGS)
    assert not (tmp_path / "x.unreadable.csv").exists()


def test_what_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none of the 3 images"):
        embed(MemoryImages(count=3, broken=(0, 1, 2)), TinyBackbone(), tmp_path / "x.npy", **SETTINGS)
    with pytest.raises(DataError, match="none of the 0 images"):
        embed(MemoryImages(count=0), TinyBackbone(), tmp_path / "x.npy", **SETTINGS)
    for settings, message in (
        ({"out": tmp_path / "x.parket"}, r"\.parquet"),
        ({"features": ["clss"]}, "unknown feature 'clss'; did you mean 'cls'"),
        ({"features": []}, "at least one feature"),
        ({"layers": [4]}, "layer 4 does not exist: the backbone has 3"),
        ({"features": ["registers"]}, "does not give registers"),
        ({"dtype": "float8"}, "unknown dtype 'float8'"),
        ({"fit": "padd"}, "did you mean 'pad'"),
        ({"out": None, "layers": [1]}, "name out=FILE"),
        ({"size": "native", "resize": 8}, "resize=8 goes with a square size"),
    ):
        with pytest.raises(ConfigError, match=message):
            embed(MemoryImages(), TinyBackbone(), **{"out": tmp_path / "x.npy", **settings})
    assert list(tmp_path.iterdir()) == []


def test_what_float16_cannot_hold_is_said(tmp_path: Path) -> None:
    backbone = TinyBackbone()
    backbone.get_intermediate_layers = lambda x, n, **_: (
        (torch.full((len(x), 4, 6), 7e4), torch.ones(len(x), 6)),
    )
    with pytest.raises(RunError, match="float16 cannot hold"):
        embed(MemoryImages(), backbone, tmp_path / "x.npy", dtype="float16", **SETTINGS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ending", ENDINGS)
def test_odd_names(tmp_path: Path, ending: str) -> None:
    images = MemoryImages(count=2)
    images.name = lambda index: ("a\n0,ü", "b\udcff")[index]
    embed(images, TinyBackbone(), tmp_path / f"x{ending}", **SETTINGS)
    if ending == ".npy":
        lines = (tmp_path / "x.paths.txt").read_bytes().split(b"\n")
        assert lines == ["a\\n0,ü".encode(), b"b\xff", b""]
    else:
        wanted = ["a\n0,ü", "b\\udcff" if ending == ".parquet" else "b\udcff"]
        assert read(tmp_path / f"x{ending}")["paths"] == wanted


def test_labels_are_null_where_unknown(tmp_path: Path) -> None:
    images = MemoryImages(count=4)
    images.labels = np.array([2, -1, 0, -1])
    embed(images, TinyBackbone(), tmp_path / "x.parquet", **SETTINGS)
    assert read(tmp_path / "x.parquet")["label"] == [2, None, 0, None]


def test_in_memory_without_out() -> None:
    features = embed("synthetic:n=5,size=32,classes=2", TinyBackbone(), size=32, device="cpu")
    assert isinstance(features, Features)
    assert features.cls.shape == (5, 6)
    assert features.labels is not None
    assert math.isfinite(features.cls.sum())
