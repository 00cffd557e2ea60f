"""Feature files: each format read back by its own library; refusal, atomicity, rows without patches."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors import safe_open

from nexus.embedding import embed, write_features
from nexus.errors import ConfigError, DataError, RunError
from nexus.features import extract, iterate
from tests.evals.stubs import MemoryImages, TinyBackbone

ENDINGS = (".parquet", ".npy", ".safetensors")


def read(path):
    """Columns of a feature file, with the reader of its format."""
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        columns = {"paths": table["path"].to_pylist()}
        for name in table.column_names[1:]:
            shape = json.loads(table.schema.metadata[f"{name}_shape".encode()])
            values = np.array(table[name].to_pylist(), dtype=np.float32)
            columns[name] = values.reshape(-1, *shape)
        return columns
    if path.suffix == ".npy":
        beside = {n: path.with_name(f"{path.stem}.{n}.npy") for n in ("mean_patch", "patches")}
        columns = {name: np.load(file) for name, file in beside.items() if file.exists()}
        paths = path.with_name(f"{path.stem}.paths.txt").read_text().splitlines()
        return {"cls": np.load(path, mmap_mode="r"), "paths": paths, **columns}
    with safe_open(path, "numpy") as file:
        columns = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return {**columns, "paths": json.loads(file.metadata()["paths"])}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("patches", [False, True])
def test_round_trip(tmp_path, ending, patches):
    backbone, images, out = TinyBackbone(), MemoryImages(broken=(3,)), tmp_path / f"new/x{ending}"
    settings = {"size": 32, "batch_size": 4, "device": "cpu"}
    features = embed(images, backbone, out, patches=patches, **settings)
    columns = read(out)
    expected = extract(backbone, images, **settings)
    assert columns["paths"] == list(features.paths) == list(expected.paths)
    assert len(columns["paths"]) == 10
    np.testing.assert_array_equal(columns["cls"], expected.cls)
    np.testing.assert_array_equal(columns["mean_patch"], expected.mean_patch)
    assert torch.equal(features.cls, expected.cls)
    assert ("patches" in columns) == patches
    if patches:
        assert columns["patches"].shape == (10, 16, 6)
        np.testing.assert_allclose(columns["patches"].mean(1), expected.mean_patch, atol=1e-6)
    assert not [path for path in out.parent.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_existing_file_is_refused_unless_told(tmp_path, ending):
    out = tmp_path / f"x{ending}"
    out.write_text("mine")
    rows = list(iterate(TinyBackbone(), MemoryImages()))
    with pytest.raises(RunError, match="overwrite"):
        write_features(out, rows)
    assert out.read_text() == "mine"
    assert write_features(out, rows, overwrite=True) == 11
    assert len(read(out)["paths"]) == 11


def test_a_file_beside_is_refused_too(tmp_path):
    (tmp_path / "x.paths.txt").write_text("mine")
    with pytest.raises(RunError, match=r"x\.paths\.txt"):
        write_features(tmp_path / "x.npy", [])


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_failure_midway_leaves_nothing_and_keeps_the_old_file(tmp_path, ending):
    def failing():
        yield from iterate(TinyBackbone(), MemoryImages(), patches=True)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_features(tmp_path / f"x{ending}", failing())
    assert list(tmp_path.iterdir()) == []
    old = tmp_path / f"x{ending}"
    old.write_text("old")
    with pytest.raises(KeyboardInterrupt):
        write_features(old, failing(), overwrite=True)
    assert old.read_text() == "old"
    with pytest.raises(DataError):
        write_features(tmp_path / f"y{ending}", [])
    assert list(tmp_path.iterdir()) == [old]


def test_wrong_ending_and_patches_without_a_file(tmp_path):
    with pytest.raises(ConfigError, match=r"\.parquet"):
        embed(MemoryImages(), TinyBackbone(), tmp_path / "x.parket")
    with pytest.raises(ConfigError, match="out=FILE"):
        embed(MemoryImages(), TinyBackbone(), patches=True)


def test_an_odd_name_is_one_line(tmp_path):
    images = MemoryImages(count=2)
    images.name = lambda index: f"a\n{index}"
    write_features(tmp_path / "x.npy", iterate(TinyBackbone(), images))
    assert (tmp_path / "x.paths.txt").read_text().splitlines() == ["a\\n0", "a\\n1"]


def test_a_source_by_its_name():
    features = embed("synthetic:n=5,size=32,classes=2", TinyBackbone(), size=32, device="cpu")
    assert features.cls.shape == (5, 6)
    assert features.labels is not None
