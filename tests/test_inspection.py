"""`nexus inspect`: what any file is, what it holds, what it lacks and what it is good for."""

import argparse
import hashlib
import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

import nexus
from nexus import checkpoint, cli
from nexus.errors import NexusError
from nexus.models.vision import VisionTransformer
from nexus.weights import inspect, inspect_sentence, save_backbone
from nexus.weights.onnx_header import onnx_facts

SMALL = {"img_size": 56, "patch_size": 14, "embed_dim": 64, "depth": 2, "num_heads": 1}
NO_RESUME = "optimizer (training cannot be resumed from it)"


@pytest.fixture(scope="module")
def model() -> VisionTransformer:
    return VisionTransformer(**SMALL, num_register_tokens=4).eval()


def dumped(content: Any, path: Path) -> Path:
    torch.save(content, path)
    return path


def prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in state.items()}


# ---- weights -------------------------------------------------------------------------------------------


def test_an_official_file(tmp_path: Path, model: VisionTransformer) -> None:
    path = dumped({key: value.half() for key, value in model.state_dict().items()}, tmp_path / "x.pth")
    facts = inspect(path)
    assert facts["kind"] == "weights"
    assert facts["architecture"] == "vit of width 64, depth 2, 1 heads (patch14_reg4)"
    assert facts["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert facts["bytes"] == path.stat().st_size
    assert facts["format"] == "PyTorch archive"
    assert facts["dtype"] == "float16"
    assert facts["position_table"] == "4 × 4, for 56 px"
    assert facts["holds"] == ["tensors alone"]
    assert facts["made_for"] == "inference"
    assert facts["lacks"] == [
        *("heads", NO_RESUME, "normalization (ImageNet's is taken)", "licence", "provenance"),
    ]
    assert "nexus embed" in facts["use"]
    assert "problem" not in facts


def test_our_own_file(tmp_path: Path) -> None:
    save_backbone(VisionTransformer(**SMALL), tmp_path, provenance={"step": 3}, mean=(0,), std=(1,))
    facts = inspect(tmp_path / "model.safetensors")
    assert facts["format"] == "safetensors"
    assert facts["lacks"] == ["registers", "heads", NO_RESUME, "licence"]
    assert facts["provenance"]["step"] == 3
    assert inspect_sentence(facts).endswith("56 px, step 3")
    save_backbone(
        VisionTransformer(**SMALL), tmp_path, provenance={"licence": "CC0-1.0"}, mean=(0,), std=(1,)
    )
    facts = inspect(tmp_path)
    assert facts["licence"] == "CC0-1.0"
    assert "licence" not in facts["lacks"]


def test_a_training_dump(tmp_path: Path, model: VisionTransformer) -> None:
    state = prefixed(model.state_dict(), "backbone.")
    head = {"dino_head.mlp.0.weight": torch.zeros(4, 4), "ibot_head.mlp.0.weight": torch.zeros(4, 4)}
    content = {
        "teacher": {**state, **head},
        "student": state,
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": []},
        "scaler": {"scale": 1.0},
        "iteration": 1249,
    }
    facts = inspect(dumped(content, tmp_path / "model.pth"))
    assert facts["holds"] == [
        *("teacher", "student", "heads (dino_head, ibot_head)", "optimizer", "schedules or loss scale"),
    ]
    assert facts["made_for"] == "training"
    assert facts["iteration"] == 1249
    assert facts["tensors_in_file"] == 2 * len(state) + 2
    assert facts["lacks"] == ["normalization (ImageNet's is taken)", "licence", "provenance"]
    assert "problem" not in facts


@pytest.mark.parametrize(
    ("content", "holds", "problem"),
    [
        ({"optimizer": {"state": {}, "param_groups": []}}, ["optimizer"], "holds no weights"),
        ({"a._fsdp_wrapped_module._flat_param": torch.zeros(9)}, ["tensors alone"], "shard of a sharded"),
        ({"weight": torch.zeros(3, 4), "bias": torch.zeros(3)}, ["tensors alone"], "linear classifier"),
        ([torch.zeros(3)], ["a list"], "not a dictionary of tensors"),
        ({"layer1.0.conv1.weight": torch.zeros(3, 3)}, ["tensors alone"], "does not look like a DINOv2"),
    ],
)
def test_files_without_a_backbone(tmp_path: Path, content: Any, holds: list[str], problem: str) -> None:
    facts = inspect(dumped(content, tmp_path / "x.pth"))
    assert facts["kind"] == "weights"
    assert facts["holds"] == holds
    assert problem in facts["problem"]
    assert "use" not in facts


def test_weights_that_nobody_knows_show_their_first_tensors(tmp_path: Path) -> None:
    content = {"state_dict": {"layer1.conv.weight": torch.zeros(3, 2)}}
    facts = inspect(dumped(content, tmp_path / "x.pth"))
    assert facts["first_tensors"] == ["state_dict.layer1.conv.weight (3, 2)"]


def test_a_file_is_known_by_its_content(tmp_path: Path, model: VisionTransformer) -> None:
    """Caches of other tools name files by their sums, without an ending."""
    dumped(model.state_dict(), tmp_path / "4f5e6d")
    save_file(model.state_dict(), tmp_path / "aabbcc")
    for name in ("4f5e6d", "aabbcc"):
        facts = inspect(tmp_path / name)
        assert facts["kind"] == "weights"
        assert facts["registers"] == 4


def test_a_shard_is_named(tmp_path: Path) -> None:
    path = dumped({"model": {}}, tmp_path / "model_0001249.rank_0.pth")
    assert "shard 0 of a sharded" in inspect(path)["problem"]


def test_facts_that_a_report_gains_are_shown(
    tmp_path: Path, model: VisionTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = dumped(model.state_dict(), tmp_path / "x.pth")
    report = nexus.weights.loading.read_report(path)
    from dataclasses import replace

    monkeypatch.setattr("nexus.weights.inspection.read_report", lambda _: replace(report, resized=("a → b",)))
    assert inspect(path)["resized"] == ("a → b",)


# ---- folders -------------------------------------------------------------------------------------------


def test_checkpoints_are_not_for_inference(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "checkpoints", 5, {"x": torch.zeros(100)}, {}, keep=2)
    facts = inspect(tmp_path / "checkpoints")
    assert facts["checkpoints"] == ["step_0000005"]
    assert f"--resume {tmp_path};" in facts["use"]
    facts = inspect(tmp_path / "checkpoints" / "step_0000005")
    assert (facts["kind"], facts["step"]) == ("checkpoint", 5)
    assert facts["bytes"] > 400
    assert f"--resume {tmp_path}; not for inference" in facts["use"]
    assert inspect_sentence(facts).endswith("checkpoint, 5 step")


# ---- features ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["parquet", "npy", "safetensors"])
def test_features(tmp_path: Path, ending: str) -> None:
    out = tmp_path / f"f.{ending}"
    nexus.embed("synthetic:n=5,size=28", VisionTransformer(**SMALL), out, size=28, device="cpu")
    facts = inspect(out)
    assert facts["kind"] == "features, as `nexus embed` writes them"
    assert facts["images"] == 5
    assert "64" in json.dumps(facts.get("columns", facts.get("shape")))
    assert "5 images" in inspect_sentence(facts)


def test_arrays_of_objects_are_not_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{}], dtype=object), allow_pickle=True)
    facts = inspect(tmp_path / "a.npy")
    assert facts["kind"] == "other file"
    assert "a NumPy array" in facts["problem"]
    np.save(tmp_path / "b.npy", np.zeros((3, 4), dtype=np.float16))
    facts = inspect(tmp_path / "b.npy")
    assert (facts["kind"], facts["shape"], facts["dtype"]) == ("NumPy array", [3, 4], "float16")


def test_a_parquet_list_of_images_is_a_data_set(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    pq.write_table(pa.table({"path": [str(tmp_path / "a.png")]}), tmp_path / "list.parquet")
    assert inspect(tmp_path / "list.parquet")["kind"] == "data set"


# ---- ONNX ----------------------------------------------------------------------------------------------


def field(number: int, value: int | bytes) -> bytes:
    """One field of a protocol buffer, written from the format's description."""

    def varint(n: int) -> bytes:
        return bytes([n]) if n < 128 else bytes([n & 127 | 128]) + varint(n >> 7)

    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def value_info(name: bytes, element: int, axes: list[int | bytes]) -> bytes:
    shape = b"".join(field(1, field(1 if isinstance(axis, int) else 2, axis)) for axis in axes)
    return field(1, name) + field(2, field(1, field(1, element) + field(2, shape)))


def onnx_model() -> bytes:
    weights = field(5, field(9, bytes(300_000)))
    images = field(11, value_info(b"images", 1, [b"batch", 3, b"height", b"width"]))
    graph = field(2, b"main") + weights + images + field(12, value_info(b"cls", 10, [b"batch", 384]))
    opsets = field(8, field(1, b"com.example") + field(2, 1)) + field(8, field(1, b"") + field(2, 18))
    return field(1, 10) + field(2, b"pytorch") + field(3, b"2.9") + field(7, graph) + opsets


def test_an_onnx_model_by_its_header(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(onnx_model())
    facts = inspect(path)
    assert facts["kind"] == "ONNX model"
    assert facts["producer"] == "pytorch 2.9"
    assert facts["opset"] == 18
    assert facts["inputs"] == ["images: float32 (batch, 3, height, width)"]
    assert facts["outputs"] == ["cls: float16 (batch, 384)"]
    path.write_bytes(onnx_model()[:200_000])
    assert "damaged" in inspect(path)["problem"] or "ONNX" in inspect(path)["problem"]


def test_against_the_onnx_package(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    path = tmp_path / "m.onnx"
    path.write_bytes(onnx_model())
    parsed = onnx.load(path)
    assert [value.name for value in parsed.graph.input] == ["images"]
    facts = onnx_facts(path)
    assert facts["ir_version"] == parsed.ir_version
    assert facts["opset"] == parsed.opset_import[1].version


# ---- everything else -----------------------------------------------------------------------------------


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "x")


def tarred(path: Path) -> None:
    (path.parent / "a.txt").write_text("x")
    with tarfile.open(path, "w") as archive:
        archive.add(path.parent / "a.txt", "a.txt")


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("x.pth", b"<html>404</html>", "a web page"),
        ("x.html", b"<html>404</html>", "a web page"),
        ("x.bin", b"version https://git-lfs.github.com/spec/v1\noid", "a Git LFS pointer"),
        ("x.dat", b"version https://git-lfs.github.com/spec/v1\noid", "a Git LFS pointer"),
        ("x.pth", b"", "empty"),
        ("x.h5", b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
        ("x.gguf", b"GGUF\3\0\0\0", "a GGUF file"),
        ("x.pth", b"hello", "it is text"),
        ("x.pth", zipped, "a zip archive that holds a.txt"),
        ("x.zip", zipped, "no images|not one image|found no"),
        ("x.pth", tarred, "a tar archive"),
        ("x.tar", tarred, "no images|not one image|found no"),
        ("x.bin", b"\x00\x01\x02", "neither safetensors nor a PyTorch file"),
    ],
)
def test_files_in_plain_words(tmp_path: Path, name: str, content: bytes | Callable, problem: str) -> None:
    path = tmp_path / name
    if callable(content):
        content(path)
    else:
        path.write_bytes(content)
    facts = inspect(path)
    assert any(words in facts["problem"] for words in problem.split("|")), facts["problem"]
    assert str(path) in inspect_sentence(facts)
    json.dumps(facts)


def test_what_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NexusError):
        inspect(tmp_path / "nothing")


def test_the_command_speaks_json(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    path = dumped(nn.Linear(2, 2).state_dict(), tmp_path / "x.pth")
    assert cli.run(["inspect", str(path), "--json"]) == 0
    assert json.loads(capfd.readouterr().out) == inspect(path)
    assert cli.run(["inspect", str(path)]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(inspect(path))


def test_settings_of_a_training_are_values(tmp_path: Path, model: VisionTransformer) -> None:
    content = {"teacher": model.state_dict(), "args": {"lr": 0.1}, "epoch": 7}
    facts = inspect(dumped(content, tmp_path / "x.pth"))
    assert facts["holds"] == ["teacher", "settings of the training"]
    assert facts["epoch"] == 7
    content["args"] = argparse.Namespace(lr=0.1)
    facts = inspect(dumped(content, tmp_path / "y.pth"))
    assert "problem" not in facts or "argparse.Namespace" in facts["problem"]
