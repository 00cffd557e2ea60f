"""Weight files: round trips, other people's layouts, inferred architectures, damaged and hostile files."""

import json
import logging
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import nexus
from nexus import checkpoint
from nexus.errors import ConfigError, NexusError, RunError, WeightsError
from nexus.models.vision import VisionTransformer, ViTConfig, architecture, build_backbone
from nexus.models.vision.embed import positions
from nexus.weights import (
    initialise_from,
    inspect,
    inspect_sentence,
    load,
    load_with_report,
    save_backbone,
)
from nexus.weights.infer import architecture_name, infer_config

SMALL = {"img_size": 56, "patch_size": 14, "embed_dim": 64, "depth": 3, "num_heads": 1}
MEAN, STD = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)


def small(**changes) -> VisionTransformer:
    """A backbone in which every parameter is random, so that no two tensors can be confused."""
    model = VisionTransformer(**{**SMALL, **changes}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.1)
    return model


def save(model: VisionTransformer, folder: Path, file_name: str = "model.safetensors", **provenance) -> None:
    save_backbone(model, folder, file_name=file_name, provenance=provenance, mean=MEAN, std=STD)


def dump(content: object, path: Path) -> Path:
    torch.save(content, path)
    return path


def assert_same(model: VisionTransformer, other: VisionTransformer, size: int = 56) -> None:
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        torch.testing.assert_close(
            model.forward_features(images)["x_prenorm"],
            other.forward_features(images)["x_prenorm"],
            rtol=0,
            atol=0,
        )


# ---- our own files -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_register_tokens": 4, "interpolate_antialias": True, "interpolate_offset": 0.0},
        {"ffn_layer": "swiglufused", "init_values": None},
        {"num_heads": 4, "in_chans": 3, "interpolate_antialias": True},
    ],
)
def test_a_run_folder_gives_the_same_network_back(tmp_path: Path, changes: dict) -> None:
    teacher, student = small(**changes), small(**changes, drop_path_rate=0.3)
    save(teacher, tmp_path, step=7)
    save(student, tmp_path, "student.safetensors", step=7)
    for source in (tmp_path, str(tmp_path), tmp_path / "model.safetensors"):
        model, report = load_with_report(source)
        assert_same(teacher, model)
        assert_same(teacher, model, size=42)
    assert model.config == teacher.config
    assert not model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert model.normalization == (MEAN, STD)
    assert report.tensors == len(teacher.state_dict())
    assert_same(student, nexus.load(tmp_path, encoder="student"))


def test_config_json_says_everything(tmp_path: Path) -> None:
    save(small(), tmp_path, step=7, data="folder imgs/", licence="CC0-1.0")
    values = json.loads((tmp_path / "config.json").read_text())
    assert ViTConfig(**values["architecture"]) == small().config
    assert values["normalization"] == {"mean": list(MEAN), "std": list(STD)}
    assert values["licence"] == "CC0-1.0"
    assert values["provenance"]["step"] == 7
    assert values["provenance"]["nexus"] == nexus.__version__
    assert set(load_file(tmp_path / "model.safetensors")) == set(small().state_dict())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_the_tensor_file_alone_is_enough(tmp_path: Path) -> None:
    model = small(num_heads=4, interpolate_offset=0.0)
    save(model, tmp_path)
    (tmp_path / "config.json").unlink()
    (tmp_path / "model.safetensors").rename(tmp_path / "mine.safetensors")
    loaded = load(tmp_path / "mine.safetensors")
    assert loaded.config == model.config
    assert loaded.normalization == (MEAN, STD)
    assert_same(model, loaded)


def test_whoever_may_read_the_description_may_read_the_weights(tmp_path: Path) -> None:
    save(VisionTransformer(img_size=28, patch_size=14, embed_dim=32, depth=1, num_heads=2), tmp_path)
    modes = {path.name: path.stat().st_mode for path in tmp_path.iterdir()}
    assert modes["model.safetensors"] == modes["config.json"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = small()
    save(first, tmp_path)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="No space left on device"):
        save(small(), tmp_path)
    assert not list(tmp_path.glob(".*"))
    assert_same(first, load(tmp_path))


def test_half_precision_is_loaded_as_float32(tmp_path: Path) -> None:
    state = {key: value.half() for key, value in small().state_dict().items()}
    model, report = load_with_report(dump(state, tmp_path / "half.pth"))
    assert report.dtype == "float16"
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


# ---- layouts of others -------------------------------------------------------------------------------


def chunked(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Two chunks, the second beginning at block 2, as official training with block_chunks=2 would write."""
    names = {"blocks.0.": "blocks.0.0.", "blocks.1.": "blocks.0.1.", "blocks.2.": "blocks.1.2."}
    result = {}
    for key, value in state.items():
        prefix = key[:9]
        result[names[prefix] + key[9:] if prefix in names else key] = value
    return result


def prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in state.items()}


HEADS = {"dino_head.mlp.0.weight": torch.zeros(4, 4), "dino_head.last_layer.weight_v": torch.zeros(4, 4)}

LAYOUTS = {
    "flat": lambda state: state,
    "chunked": chunked,
    "ddp": lambda state: prefixed(state, "module."),
    "teacher dump": lambda state: {"teacher": {**prefixed(chunked(state), "backbone."), **HEADS}},
    "v1-style dump": lambda state: {
        "student": prefixed({key: value + 1 for key, value in state.items()}, "module.backbone."),
        "teacher": prefixed(state, "backbone."),
        "epoch": 3,
    },
    "whole model": lambda state: {
        "model": {
            **prefixed({key: value + 1 for key, value in state.items()}, "student.backbone."),
            **prefixed(state, "teacher.backbone."),
            **prefixed(HEADS, "teacher."),
        },
        "iteration": 12,
    },
    "compiled": lambda state: {"state_dict": prefixed(state, "_orig_mod.backbone.")},
    "fsdp": lambda state: prefixed(state, "_fsdp_wrapped_module."),
}


NESTED = {"teacher dump", "v1-style dump", "whole model", "compiled"}


@pytest.mark.parametrize(
    ("layout", "ending"),
    [(layout, "pth") for layout in LAYOUTS]
    + [(layout, "safetensors") for layout in LAYOUTS if layout not in NESTED],
)
def test_layouts_of_official_files_load_strictly(tmp_path: Path, layout: str, ending: str) -> None:
    model = small(num_register_tokens=4, interpolate_antialias=True, interpolate_offset=0.0)
    content = LAYOUTS[layout](model.state_dict())
    path = tmp_path / f"weights.{ending}"
    if ending == "pth":
        dump(content, path)
    else:
        save_file(content, path)
    loaded, report = load_with_report(path)
    assert loaded.config == model.config
    assert_same(model, loaded)
    assert_same(model, loaded, size=42)
    assert report.tensors == len(model.state_dict())
    if layout == "teacher dump":
        assert set(report.dropped) == set(HEADS)
        assert "left aside 2 others" in str(report)
    if layout in ("v1-style dump", "whole model"):
        student = load(path, encoder="student")
        torch.testing.assert_close(student.norm.bias, model.norm.bias + 1)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"embed_dim": 192, "num_heads": 3},
        {"patch_size": 8, "img_size": 40, "in_chans": 5},
        {"num_register_tokens": 2, "interpolate_antialias": True, "interpolate_offset": 0.0},
        {"ffn_layer": "swiglufused"},
        {"ffn_layer": "swiglufused", "mlp_ratio": 3.0},
        {"mlp_ratio": 2.7},
        {"init_values": None},
        {"ffn_layer": "identity"},
        {"qkv_bias": False, "proj_bias": False, "ffn_bias": False},
        {"depth": 12},
    ],
    ids=str,
)
def test_shapes_tell_the_architecture(changes: dict) -> None:
    config = build_backbone(ViTConfig(**{**SMALL, **changes})).config
    state = build_backbone(config).state_dict()
    found = infer_config(Path("x"), state)
    assert found.model_dump(exclude={"mlp_ratio"}) == config.model_dump(exclude={"mlp_ratio"})
    other = build_backbone(found).state_dict()
    assert {key: value.shape for key, value in other.items()} == {
        key: value.shape for key, value in state.items()
    }


@pytest.mark.parametrize("name", [f"dinov2_vit{size}14{tail}" for size in "sblg" for tail in ("", "_reg")])
def test_released_architectures_are_recognised_and_have_the_official_counts(name: str) -> None:
    counts = {"s": 22_056_576, "b": 86_580_480, "l": 304_368_640, "g": 1_136_480_768}
    registers = 4 if name.endswith("_reg") else 0
    with torch.device("meta"):
        state = build_backbone(architecture(name)).state_dict()
    config = infer_config(Path("x"), state)
    assert config == architecture(name)
    width = config.embed_dim
    assert sum(value.numel() for value in state.values()) == counts[name[10]] + registers * width
    assert len(state) == 14 * config.depth + (8 if registers else 7)
    size = {"s": "small", "b": "base", "l": "large", "g": "giant"}[name[10]]
    assert architecture_name(config) == f"vit_{size}_patch14" + ("_reg4" if registers else "")


# ---- names -------------------------------------------------------------------------------------------


def test_an_architecture_gives_random_weights_and_says_so(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("nexus"), "propagate", True)
    model, report = load_with_report("vit_tiny_patch16", img_size=32)
    assert "random weights" in caplog.text
    assert report.random
    assert str(report) == "vit_tiny_patch16: random weights"
    assert model.pos_embed.shape == (1, 5, 192)


@pytest.mark.parametrize(
    ("source", "match"),
    [
        ("vit_smal_patch14", "did you mean 'vit_small_patch14'"),
        ("runs/nothing", "there is no"),
        ("missing.pth", "there is no"),
        (Path("missing"), "there is no"),
    ],
)
def test_what_does_not_exist_is_said(source: str | Path, match: str) -> None:
    with pytest.raises(WeightsError, match=match):
        load(source)


def test_unknown_encoders_are_refused() -> None:
    with pytest.raises((ConfigError, TypeError)):
        load("vit_tiny_patch16", encoder="mean")


# ---- folders -----------------------------------------------------------------------------------------


def test_folders_without_weights_say_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("schedule: {steps: 10}\n")
    with pytest.raises(WeightsError, match=r"no model.safetensors yet.*--resume"):
        load(tmp_path)
    checkpoint.save(tmp_path / "checkpoints", 5, {"x": torch.zeros(1)}, {}, keep=2)
    with pytest.raises(WeightsError, match="for resuming, not for inference; pass the run folder"):
        load(tmp_path / "checkpoints" / "step_0000005")
    save(small(), tmp_path)
    with pytest.raises(WeightsError, match=r"no student.safetensors"):
        load(tmp_path, encoder="student")
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(WeightsError, match="is no run folder"):
        load(other)
    (other / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"pass one of its weight files: pytorch_model\.bin"):
        load(other)
    (other / "pytorch_model.bin").unlink()
    (other / "config.json").write_text('{"model_type": "dinov2"}')
    with pytest.raises(WeightsError, match=r"Hugging Face folder .* without weights"):
        load(other)


def test_a_config_that_does_not_belong_is_refused(tmp_path: Path) -> None:
    save(small(), tmp_path / "a")
    save(small(depth=2), tmp_path / "b")
    (tmp_path / "b" / "config.json").replace(tmp_path / "a" / "config.json")
    with pytest.raises(WeightsError, match=r"another architecture than model\.safetensors itself"):
        load(tmp_path / "a")
    (tmp_path / "a" / "config.json").write_text('{"format": ')
    with pytest.raises(WeightsError, match="cannot be read"):
        load(tmp_path / "a")


def test_a_config_beside_a_pickle_is_compared_with_the_tensors(tmp_path: Path) -> None:
    """A pickle carries no description of its own, so that the one beside it counts."""
    save(small(depth=2), tmp_path)
    (tmp_path / "model.safetensors").unlink()
    path = dump(small().state_dict(), tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match=r"14 unexpected \(blocks\.2"):
        load(path)
    (tmp_path / "config.json").write_text('{"format": "nexus", "architecture": {"width": 3}}')
    with pytest.raises(WeightsError, match="unknown setting 'width'"):
        load(path)


@pytest.mark.parametrize(
    "values", ["[]", '"x"', '{"mean": 3}', '{"std": [0]}', '{"mean": ["a"]}', '{"std": []}']
)
def test_a_normalization_that_is_none_is_refused(tmp_path: Path, values: str) -> None:
    path = dump(small().state_dict(), tmp_path / "weights.pth")
    (tmp_path / "config.json").write_text(f'{{"format": "nexus", "normalization": {values}}}')
    with pytest.raises(WeightsError, match="no usable normalization"):
        load(path)


def test_an_edited_normalization_is_noticed(tmp_path: Path) -> None:
    save(small(), tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    values["normalization"]["mean"][0] = 0.5
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(WeightsError, match="another normalization than"):
        load(tmp_path)


# ---- strictness --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("blocks.1.norm2.bias", None, r"1 missing \(blocks\.1\.norm2\.bias\)"),
        ("blocks.1.attn.rel_pos", torch.zeros(2), r"1 unexpected \(blocks\.1\.attn\.rel_pos\)"),
        ("blocks.2.mlp.fc2.bias", torch.zeros(3), r"fc2\.bias is \(3,\), not \(64,\)"),
        ("pos_embed", torch.zeros(1, 16, 64), "no square grid"),
        ("patch_embed.proj.weight", torch.zeros(64, 3, 14, 16), "not square"),
        ("patch_embed.proj.weight", torch.zeros(80, 3, 14, 14), "no multiple of 64"),
        ("patch_embed.proj.weight", torch.zeros(64), "does not look like a DINOv2 backbone"),
        ("patch_embed.proj.weight", None, "there is no 'patch_embed.proj.weight'"),
    ],
)
def test_anything_but_an_exact_fit_is_refused(
    tmp_path: Path, key: str, value: Tensor | None, match: str
) -> None:
    state = dict(small().state_dict())
    state.pop(key, None)
    if value is not None:
        state[key] = value
    with pytest.raises(WeightsError, match=match):
        load(dump(state, tmp_path / "weights.pth"))


def test_missing_blocks_and_chunks_counted_from_zero_are_refused(tmp_path: Path) -> None:
    state = small().state_dict()
    gap = {key: value for key, value in state.items() if not key.startswith("blocks.1.")}
    with pytest.raises(WeightsError, match=r"numbered \[0, 2\]"):
        load(dump(gap, tmp_path / "gap.pth"))
    local = {key.replace("blocks.1.2.", "blocks.1.0."): value for key, value in chunked(state).items()}
    with pytest.raises(WeightsError, match="blocks of every chunk from 0"):
        load(dump(local, tmp_path / "local.pth"))


@pytest.mark.parametrize(
    ("keys", "match"),
    [
        (["student.backbone._fsdp_wrapped_module._flat_param"], "shard of a sharded"),
        (["storage_tokens", "blocks.0.norm1.weight", "rope_embed.periods"], "DINOv3"),
        (["embeddings.patch_embeddings.projection.weight"], "Hugging Face"),
        (["embeddings.cls_token", "embeddings.patch_embeddings.weight"], "DINOv3"),
        (["cls_token", "patch_embed.proj.weight", "decoder_pos_embed"], "masked autoencoder"),
        (["mlp.0.weight", "last_layer.weight_v"], "projection head"),
        (["weight", "bias"], "linear classifier"),
        (["layer1.0.conv1.weight"], "does not look like a DINOv2 backbone"),
    ],
)
def test_files_of_other_kinds_are_named(tmp_path: Path, keys: list[str], match: str) -> None:
    path = dump(dict.fromkeys(keys, torch.zeros(2, 2)), tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=match):
        load(path)
    facts = inspect(path)
    assert facts["kind"] == "weights"
    assert match in facts["problem"]


# ---- damaged and hostile files -----------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
@pytest.mark.parametrize("share", [0.001, 0.01, 0.5, 0.99])
def test_truncated_files_are_damaged(tmp_path: Path, ending: str, share: float) -> None:
    path = tmp_path / f"weights.{ending}"
    if ending == "pth":
        dump(small().state_dict(), path)
    else:
        save_file(small().state_dict(), path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(WeightsError, match="damaged or incomplete"):
        load(path)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "it is empty"),
        (b"hello, I am a text", "it is text; pass"),
        (b"<!DOCTYPE html><html>404</html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "git lfs pull"),
        (b"\x00\x01\x02\x03" * 50, "neither safetensors nor a PyTorch file"),
        (b"\x80\x02", "damaged"),
        (b"\x80\x04garbage", "damaged"),
        (b"PK\x03\x04nothing", "damaged"),
        (b"\x10\x00\x00\x00\x00\x00\x00\x00{not json at all", "damaged"),
    ],
)
def test_files_that_are_no_weights_say_so(tmp_path: Path, content: bytes, match: str) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=match):
        load(path)


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {"teacher": {"epoch": 3}}, torch.zeros(3)])
def test_pickles_without_a_state_dict_say_so(tmp_path: Path, content: object) -> None:
    with pytest.raises(WeightsError, match=r"holds no weights of a teacher|not a dictionary of tensors"):
        load(dump(content, tmp_path / "weights.pth"))


class Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("reader", [load, inspect])
def test_a_pickle_cannot_run_code(tmp_path: Path, zipped: bool, reader) -> None:
    target, path = tmp_path / "executed", tmp_path / "weights.pth"
    torch.save(
        {**small().state_dict(), "norm.bias": Bomb(target)}, path, _use_new_zipfile_serialization=zipped
    )
    if reader is load:
        with pytest.raises(WeightsError, match=r"mkdir.*Nothing of it was executed"):
            load(path)
    else:
        assert "Nothing of it was executed" in inspect(path)["problem"]
    assert not target.exists()
    torch.load(path, weights_only=False)
    assert target.exists(), "the bomb of this test is harmless, so the test proves nothing"


def test_parts_of_models_are_named_before_they_are_opened(tmp_path: Path) -> None:
    for name, match in (
        ("model_0001249.rank_3.pth", r"shard 3 .*teacher_checkpoint\.pth"),
        ("model-00002-of-00005.safetensors", "part 2 of 5"),
    ):
        (tmp_path / name).write_bytes(b"anything")
        with pytest.raises(WeightsError, match=match):
            load(tmp_path / name)


def test_folders_and_pipes_with_the_name_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.pth").mkdir()
    with pytest.raises(WeightsError, match="is no run folder"):
        load(tmp_path / "a.pth")
    os.mkfifo(tmp_path / "b.pth")
    with pytest.raises(WeightsError, match="not a regular file"):
        load(tmp_path / "b.pth")


# ---- other sizes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("registers", [0, 4])
def test_resizing_once_is_resizing_every_time(tmp_path: Path, registers: int) -> None:
    model = small(
        num_register_tokens=registers,
        interpolate_antialias=bool(registers),
        interpolate_offset=0.0 if registers else 0.1,
    )
    save(model, tmp_path)
    loaded, report = load_with_report(tmp_path, img_size=98)
    assert loaded.config.img_size == 98
    assert loaded.pos_embed.shape == (1, 50, 64)
    assert report.resized == ("pos_embed: 4×4 → 7×7 (bicubic)",)
    assert_same(model, loaded, size=98)


def test_initialise_copies_and_resizes(tmp_path: Path) -> None:
    source, model = small(), small(img_size=84)
    save(source, tmp_path)
    parameters = dict(model.named_parameters())
    report = initialise_from(model, tmp_path)
    assert all(value is parameters[key] for key, value in model.named_parameters())
    for key, value in model.state_dict().items():
        expected = positions(source.pos_embed, 6, 6) if key == "pos_embed" else source.state_dict()[key]
        torch.testing.assert_close(value, expected, rtol=0, atol=0)
    count = len(source.state_dict())
    assert str(report) == (
        f"loaded {count}/{count} backbone tensors from {tmp_path / 'model.safetensors'}; "
        "pos_embed: 4×4 → 6×6 (bicubic)"
    )
    assert initialise_from(source, tmp_path).resized == ()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"depth": 2}, "depth: file 3, model 2"),
        ({"num_register_tokens": 4}, "num_register_tokens: file 0, model 4"),
        ({"patch_size": 7}, "patch_size: file 14, model 7"),
        ({"init_values": None}, "layer scale: file True, model False"),
        ({"ffn_layer": "swiglufused"}, "ffn_layer: file mlp, model swiglu"),
    ],
)
def test_initialise_refuses_what_does_not_fit_and_changes_nothing(
    tmp_path: Path, changes: dict, match: str
) -> None:
    save(small(), tmp_path)
    model = small(**changes)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(WeightsError, match=match):
        initialise_from(model, tmp_path)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_initialise_needs_weights() -> None:
    with pytest.raises(WeightsError, match="no weights to start from"):
        initialise_from(small(), "vit_tiny_patch16")


# ---- inspect -----------------------------------------------------------------------------------------


def test_inspect_tells_a_run_from_its_files(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("schedule: {steps: 10}\ndata: {source: imgs/}\n")
    facts = inspect(tmp_path)
    assert facts["kind"] == "run folder"
    assert facts["state"] == "unfinished, saved at step 0 of 10"
    assert "none yet" in facts["model_file"]
    save(small(), tmp_path, step=5)
    checkpoint.save(tmp_path / "checkpoints", 5, {"x": torch.zeros(1)}, {}, keep=2)
    (tmp_path / "metrics.jsonl").write_text('{"step": 4}\n{"step": 5, "loss": 1.5}\n{"step": 6, "lo')
    facts = inspect(tmp_path)
    assert facts["last_metrics"] == {"step": 5, "loss": 1.5}
    assert facts["checkpoints"] == ["step_0000005"]
    assert facts["model"]["step"] == 5
    assert facts["model"]["normalization"]["mean"] == list(MEAN)
    assert "unfinished, saved at step 5 of 10" in inspect_sentence(facts)
    checkpoint.save(tmp_path / "checkpoints", 10, {"x": torch.zeros(1)}, {}, keep=2)
    assert inspect(str(tmp_path))["state"] == "finished, 10 steps"


def test_inspect_tells_a_weight_file_from_its_shapes(tmp_path: Path) -> None:
    model = small()
    facts = inspect(dump(model.state_dict(), tmp_path / "weights.pth"))
    assert facts["architecture"] == "vit of width 64, depth 3, 1 heads (patch14)"
    assert facts["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert (facts["registers"], facts["patch_size"], facts["image_size"]) == (0, 14, 56)
    assert "inferred" in facts["written_by"]
    assert "normalization" not in facts
    assert inspect_sentence(facts).endswith("parameters, 56 px")
    json.dumps(facts)


def test_inspect_of_weights_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEXUS_CACHE", str(tmp_path))
    for name in ("missing.pth", "vit_smal_patch14"):
        with pytest.raises(NexusError):
            inspect(name)


def test_inspect_tells_an_architecture_and_a_data_set(tmp_path: Path) -> None:
    from PIL import Image

    facts = inspect("vit_giant_patch14_reg4")
    assert facts["kind"] == "architecture"
    assert facts["parameters"] == 1_134_771_200 + 4 * 1536
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    facts = inspect(tmp_path)
    assert (facts["kind"], facts["images"]) == ("data set", 1)
    assert "found 1 image" in inspect_sentence(facts)
