"""Training, embedding and evaluating on images of any number of channels and any depth."""

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from nexus.config import read_yaml
from nexus.data.channels import look_at_channels
from nexus.data.datasets import open_dataset
from nexus.data.picture import Look
from nexus.embedding import embed
from nexus.errors import ConfigError, DataError
from nexus.evals import evaluate
from nexus.training.launch import train
from nexus.weights import inspect, load, write_card
from tests.training.runs import SETTINGS, fingerprint, lines, log, resume, run

RNG = np.random.default_rng(0)
SHORT = {"data__channels": "native", "schedule__steps": 2, "checkpoint__every": 1}


def bands(count: int, kind: str, high: float, images: int = 12, side: int = 40) -> np.ndarray:
    """Smooth random images (images, side, side, count), each band with a level of its own."""
    coarse = RNG.random((images, 5, 5, count)) * np.linspace(0.3, 1.0, count)
    fine = coarse.repeat(side // 5, axis=1).repeat(side // 5, axis=2)
    return (fine * high).astype(kind)


def tiffs(root: Path, values: np.ndarray, **options: object) -> Path:
    for i, image in enumerate(values):
        path = root / "ab"[i % 2] / f"{i:02d}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        planes = np.moveaxis(image, 2, 0)
        tifffile.imwrite(path, planes, photometric="minisblack", planarconfig="separate", **options)
    return root


def five_floats(root: Path) -> str:
    return str(tiffs(root / "float", bands(5, "float32", 0.9)))


def grey_16(root: Path) -> str:
    for i, image in enumerate(bands(1, "uint16", 40_000)):
        path = root / "grey" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[:, :, 0]).save(path)
    return str(root / "grey")


def seven_bytes(root: Path) -> str:
    np.save(root / "seven.npy", bands(7, "uint8", 255))
    return str(root / "seven.npy")


def four_signed(root: Path) -> str:
    import h5py

    with h5py.File(root / "four.h5", "w") as file:
        file["images"] = bands(4, "int16", 3000) - 100
        file["labels"] = np.arange(12) % 2
    return f"{root}/four.h5"


SETS = {
    five_floats: (5, None),
    grey_16: (1, None),
    seven_bytes: (7, None),
    four_signed: (4, "signed"),
}


def naive_stats(spec: str, look: Look) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of all pixels at once."""
    data = open_dataset(spec).seen_as(look)
    pictures = [data.picture(i).pixels() for i in range(len(data))]
    flat = np.concatenate([p.reshape(-1, p.shape[2]) / (255 if p.dtype == np.uint8 else 1) for p in pictures])
    return flat.mean(axis=0, dtype=np.float64), flat.std(axis=0, dtype=np.float64)


@pytest.mark.parametrize("make", SETS, ids=lambda make: make.__name__)
def test_from_training_to_features(make, tmp_path: Path) -> None:
    chans, scaled = SETS[make]
    spec, out = make(tmp_path), tmp_path / "run"
    assert run(out, spec, **SHORT).finished
    assert all(np.isfinite(line["loss"]) for line in lines(out))
    config, described = read_yaml(out / "config.yaml"), json.loads((out / "config.json").read_text())
    assert config["model"]["in_chans"] == described["architecture"]["in_chans"] == chans
    span = config["data"]["value_range"]
    assert described["pixels"] == {"channels": "native", "value_range": span}
    assert (span is not None) is (scaled is not None or make is five_floats)
    mean, std = naive_stats(spec, Look("native", None if span is None else tuple(span)))
    assert np.allclose(described["normalization"]["mean"], mean, atol=1e-5)
    assert np.allclose(described["normalization"]["std"], std, atol=1e-5)
    assert f"model.in_chans={chans}  (the images have {chans} channel" in log(out)
    assert "data.mean=" in log(out)
    assert "crops.hue=0.0  (" in log(out)

    model = load(out)
    assert model.look == Look("native", None if span is None else tuple(span), model.normalization[0])
    features = embed(spec, model, size=32)
    picture = open_dataset(spec).seen_as(model.look).picture(3).pixels().copy()
    x = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / (255 if picture.dtype == np.uint8 else 1)
    x = torch.nn.functional.interpolate(x, (37, 37), mode="bicubic", antialias=True).clamp(0, 1)
    x = x[:, :, 2:34, 2:34]
    norm = [torch.tensor(part).view(1, -1, 1, 1) for part in model.normalization]
    with torch.no_grad():
        expected = model.forward_features((x - norm[0]) / norm[1])["x_norm_clstoken"][0]
        assert torch.allclose(features.cls[3], expected, atol=1e-4)
    assert inspect(out)["model"]["channels"] == chans
    assert f"{chans} channels with values 0..1 (the stored channels" in write_card(out).read_text()
    if make is not seven_bytes:
        result = evaluate(spec, out, ["knn"], size=32)
        assert result["knn"]["samples"] > 0


@pytest.mark.parametrize("make", [five_floats, seven_bytes], ids=lambda make: make.__name__)
@pytest.mark.parametrize("engine", ["cpu", "device"])
def test_a_resumed_run_is_the_same(make, engine: str, tmp_path: Path) -> None:
    spec = make(tmp_path)
    settings = {**SHORT, "data__engine": engine, "data__workers": 0}
    run(tmp_path / "whole", spec, **{**settings, "schedule__steps": 4})
    run(tmp_path / "parts", spec, **{**settings, "schedule__steps": 4, "checkpoint__every": 2})
    import shutil

    shutil.copytree(tmp_path / "whole", tmp_path / "again")
    shutil.rmtree(tmp_path / "again" / "checkpoints" / "step_0000004")
    resume(tmp_path / "again")
    assert lines(tmp_path / "again") == lines(tmp_path / "whole")
    assert (
        fingerprint(tmp_path / "again") == fingerprint(tmp_path / "whole") == fingerprint(tmp_path / "parts")
    )


def test_small_bytes_live_on_the_device_and_deep_ones_do_not(tmp_path: Path) -> None:
    spec = seven_bytes(tmp_path)
    assert run(tmp_path / "a", spec, **SHORT, data__engine="resident").finished
    run(tmp_path / "b", spec, **SHORT, data__engine="cpu")
    near = [[line["loss"] for line in lines(tmp_path / name)] for name in "ab"]
    assert np.allclose(*near, rtol=0.02)
    with pytest.raises(DataError, match=r"deeper than 8 bits; data\.engine=cpu takes it"):
        run(tmp_path / "c", five_floats(tmp_path), **SHORT, data__engine="resident")


def test_images_of_several_depths_share_a_batch(tmp_path: Path) -> None:
    for i, image in enumerate(bands(1, "uint16", 60_000, images=8)):
        values = image[:, :, 0] if i % 2 else (image[:, :, 0] // 257).astype(np.uint8)
        Image.fromarray(values).save(tmp_path / f"{i}.png")
    result = run(tmp_path / "run", tmp_path, **SHORT, data__engine="cpu", log__every=1)
    assert result.finished
    assert 0.1 < read_yaml(tmp_path / "run" / "config.yaml")["data"]["mean"][0] < 0.2


def test_two_numbers_of_channels_name_two_files(tmp_path: Path) -> None:
    tiffs(tmp_path, bands(5, "float32", 1.0, images=4))
    tiffs(tmp_path / "z", bands(6, "float32", 1.0, images=1))
    with pytest.raises(DataError, match=r"a/00\.tif has 5, z/a/00\.tif has 6"):
        run(tmp_path / "run", tmp_path, **SHORT)
    assert not (tmp_path / "run").exists()


def test_pixels_without_data_become_the_mean(tmp_path: Path) -> None:
    values = bands(5, "float32", 0.9)
    values[:, 10:20, 5:30, 2] = -9999
    tiffs(tmp_path, values, extratags=[(42113, "s", 0, "-9999", True)])
    data = open_dataset(tmp_path)
    facts = look_at_channels(data)
    good = np.ones(values.shape[:3], dtype=bool)
    good[:, 10:20, 5:30] = False
    assert np.allclose(facts.stats.mean, values[good].mean(axis=0, dtype=np.float64), atol=1e-5)
    assert np.allclose(facts.stats.std, values[good].std(axis=0, dtype=np.float64), atol=1e-5)
    assert facts.stats.pixels == good.sum()
    seen = data.seen_as(Look("native", facts.value_range, facts.stats.mean)).subset([3, 1])
    for i, of in enumerate((3, 1)):
        pixels = seen.picture(i).pixels()
        name = int(seen.name(i)[2:4])
        assert np.allclose(pixels[12, 7], facts.stats.mean)
        assert np.allclose(pixels[0, 0], values[name, 0, 0])
        assert np.array_equal(seen.picture(i).valid(), good[of])
    assert run(tmp_path / "run", tmp_path, **SHORT).finished


def test_rgb_weights_are_carried_over(tmp_path: Path) -> None:
    run(tmp_path / "rgb", schedule__steps=1)
    settings = {k.replace("__", "."): v for k, v in SHORT.items()}
    train(
        five_floats(tmp_path),
        tmp_path / "five",
        recipe="smoke",
        init=tmp_path / "rgb",
        overrides={**SETTINGS, **settings, "schedule.steps": 1, "optim.lr": 1e-12},
    )
    old, new = (load(tmp_path / name).patch_embed.proj.weight for name in ("rgb", "five"))
    assert torch.allclose(new, old[:, [0, 1, 2, 0, 1]] * 3 / 5, atol=1e-6)
    assert "patch_embed: 3 → 5 channels" in log(tmp_path / "five")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model__in_chans": 4}, r"model\.in_chans=4 is for the stored channels"),
        ({"data__value_range": [0, 9]}, r"data\.value_range is for the stored channels"),
        (
            {"data__channels": "native", "model__in_chans": 4},
            r"data\.mean has 5 values for model\.in_chans=4",
        ),
        ({"data__channels": "native", "data__std": [0.1, 0.2]}, r"data\.std has 2 values for model"),
        ({"data__channels": "native", "data__value_range": [9, 0]}, "should be .low, high. with low < high"),
        ({"data__mean": [0.1]}, r"data\.mean has 1 values for model\.in_chans=3"),
    ],
)
def test_settings_that_do_not_go_together(settings: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        run(tmp_path / "run", five_floats(tmp_path), **settings)
    assert not (tmp_path / "run").exists()


def test_a_mean_of_ones_own_is_used_for_rgb_too(tmp_path: Path) -> None:
    run(tmp_path / "a", schedule__steps=1, data__mean=[0.1, 0.2, 0.3], data__std=[0.5, 0.5, 0.5])
    assert load(tmp_path / "a").normalization == ((0.1, 0.2, 0.3), (0.5, 0.5, 0.5))
    run(tmp_path / "b", schedule__steps=1)
    assert lines(tmp_path / "a")[0]["loss"] != lines(tmp_path / "b")[0]["loss"]


def test_two_processes_train_on_all_channels(tmp_path: Path) -> None:
    """With gloo, as one process does: the same measured channels, the same losses."""
    data = five_floats(tmp_path)
    losses, channels = [], []
    for devices in (1, 2):
        out = tmp_path / f"{devices}"
        run(out, data, **SHORT, compute__devices=devices, compute__precision="fp32", compute__timeout=120)
        losses.append([line["loss/ibot"] + line["loss/dino_local"] for line in lines(out)])
        config = read_yaml(out / "config.yaml")
        channels.append((config["model"]["in_chans"], config["data"]["mean"], config["data"]["std"]))
    assert channels[0] == channels[1]
    assert channels[0][0] == 5
    assert len(losses[0]) == 2
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
