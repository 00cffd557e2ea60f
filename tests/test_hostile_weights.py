"""Weight files that want to run code, to fill the memory, or to be believed: refused in one message."""

import io
import json
import os
import pickle
import pickletools
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.fuzz_weights import CHECKED, fuzz
from nexus.errors import WeightsError
from nexus.models.vision import VisionTransformer
from nexus.weights import inspect, load, save_backbone
from nexus.weights.pickles import imported_names

SMALL = {"img_size": 28, "patch_size": 14, "embed_dim": 64, "depth": 1, "num_heads": 1}


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    model = VisionTransformer(**SMALL)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return {key: value.detach() for key, value in model.state_dict().items()}


# ---- pickles that want to run code --------------------------------------------------------------------


class Call:
    """Calls `function(*arguments)` when it is unpickled."""

    def __init__(self, function: Callable, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple:
        return self.function, self.arguments


def write_archive(path: Path, data: bytes) -> None:
    """What torch.save writes, with a pickle of our own."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/version", "3\n")


def write_legacy(path: Path, data: bytes) -> None:
    """The older form: magic number, protocol, machine, then the pickle."""
    head = (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}})
    path.write_bytes(b"".join(pickle.dumps(part, 2) for part in head) + data + pickle.dumps([], 2))


WRITERS = {
    "archive": write_archive,
    "legacy": write_legacy,
    "bare": lambda path, data: path.write_bytes(data),
}

GADGETS: dict[str, Callable[[Path], object]] = {
    "posix.mkdir": lambda target: Call(os.mkdir, str(target)),
    "posix.system": lambda target: Call(os.system, f"mkdir '{target}'"),
    "builtins.eval": lambda target: Call(eval, f"__import__('os').mkdir({str(target)!r})"),
    "builtins.exec": lambda target: Call(exec, f"import os; os.mkdir({str(target)!r})"),
    "builtins.getattr": lambda target: Call(getattr, Call(__import__, "os"), "mkdir"),
    "subprocess.Popen": lambda target: Call(__import__("subprocess").Popen, ["mkdir", str(target)]),
    "runpy.run_path": lambda target: Call(__import__("runpy").run_path, str(target)),
    "pathlib.Path": lambda target: Call(Path.touch, target),
    "functools.partial": lambda target: Call(__import__("functools").partial, os.mkdir, str(target)),
    "operator.attrgetter": lambda target: Call(__import__("operator").attrgetter, "system"),
    "torch.hub.load": lambda target: Call(torch.hub.load, str(target), "x"),
    "numpy": lambda target: np.array([Call(os.mkdir, str(target))], dtype=object),
}


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("form", WRITERS)
@pytest.mark.parametrize("gadget", GADGETS)
def test_gadgets_are_refused_by_name(tmp_path: Path, gadget: str, form: str, protocol: int) -> None:
    target, path = tmp_path / "executed", tmp_path / "w.pth"
    content = {"teacher": {"norm.bias": [GADGETS[gadget](target)]}}
    WRITERS[form](path, pickle.dumps(content, protocol))
    with pytest.raises(WeightsError) as refusal:
        load(path)
    assert "Nothing of it was executed" in str(refusal.value)
    # Protocol 2 writes the names of Python 2.
    known = {"builtins": "__builtin__", "pathlib": "__builtin__", "subprocess": "commands"}
    words = gadget, known.get(gadget.partition(".")[0], gadget)
    assert any(word in str(refusal.value) for word in words)
    assert "Nothing of it was executed" in inspect(path)["problem"]
    assert not target.exists()


def test_the_names_are_read_off_without_execution(tmp_path: Path) -> None:
    target, path = tmp_path / "executed", tmp_path / "w.pth"
    for protocol in range(6):
        path.write_bytes(pickle.dumps([Call(os.mkdir, str(target)), Call(os.getcwd)], protocol))
        assert imported_names(path) == ["posix.mkdir", "posix.getcwd"], protocol
    assert not target.exists()
    pickle.loads(path.read_bytes())
    assert target.exists(), "the gadget of this test is harmless, so the tests above prove nothing"


def test_a_pickle_inside_a_pickle_is_named(tmp_path: Path) -> None:
    """`pickle.dump` of tensors stores each as a file of torch's own, which its reader would trust."""
    path = tmp_path / "w.pth"
    path.write_bytes(pickle.dumps({"norm.bias": torch.zeros(2)}, 4))
    with pytest.raises(WeightsError, match=r"torch\.storage\._load_from_bytes"):
        load(path)


def test_dill_and_joblib(tmp_path: Path) -> None:
    joblib = pytest.importorskip("joblib")
    path = tmp_path / "w.pth"
    joblib.dump({"norm.bias": np.zeros(3)}, path)
    with pytest.raises(WeightsError, match=r"joblib\.numpy_pickle"):
        load(path)
    joblib.dump({"norm.bias": np.zeros(3)}, path, compress=3)
    with pytest.raises(WeightsError, match="zlib, as joblib does"):
        load(path)
    path.write_bytes(pickletools.optimize(b"\x80\x02cdill._dill\n_create_function\n(I1\ntR."))
    with pytest.raises(WeightsError, match=r"dill\._dill\._create_function"):
        load(path)


def test_a_torchscript_program_is_not_run(tmp_path: Path, state: dict[str, Tensor]) -> None:
    path = tmp_path / "w.pt"
    with pytest.warns(FutureWarning, match="deprecated"):
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)
    with pytest.raises(WeightsError, match="TorchScript program: it holds code"):
        load(path)
    assert "TorchScript" in inspect(path)["problem"]


def test_the_oldest_form_is_a_tar(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    with tarfile.open(path, "w") as archive:
        for name in ("pickle", "storages", "tensors", "sys_info"):
            member = tarfile.TarInfo(name)
            data = pickle.dumps(Call(os.mkdir, str(tmp_path / "executed")), 2)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    with pytest.raises(WeightsError, match="tar archive"):
        load(path)
    data = path.read_bytes()
    path.write_bytes(b"\x80" + data[1:])  # a name that looks like a pickle does
    with pytest.raises(WeightsError, match="damaged"):
        load(path)
    assert not (tmp_path / "executed").exists()


# ---- archives ------------------------------------------------------------------------------------------


def rewritten(path: Path, change: Callable[[zipfile.ZipFile, zipfile.ZipFile], None]) -> Path:
    """The archive written again by `change(old, new)`."""
    other = path.with_name("other.pth")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(other, "w") as new:
        change(old, new)
    return other


def saved(state: dict[str, Tensor], path: Path) -> Path:
    torch.save(state, path)
    return path


def test_a_zip_bomb_is_not_inflated(tmp_path: Path, state: dict[str, Tensor]) -> None:
    def deflate(old: zipfile.ZipFile, new: zipfile.ZipFile) -> None:
        for entry in old.infolist():
            big = entry.filename.endswith("/data/0")
            data = bytes(200_000_000) if big else old.read(entry)
            new.writestr(entry.filename, data, zipfile.ZIP_DEFLATED)

    path = rewritten(saved(state, tmp_path / "w.pth"), deflate)
    assert path.stat().st_size < 1_000_000
    with pytest.raises(WeightsError, match=r"records are compressed .* would become 20\d,"):
        load(path)


def test_a_record_that_is_there_twice(tmp_path: Path, state: dict[str, Tensor]) -> None:
    def double(old: zipfile.ZipFile, new: zipfile.ZipFile) -> None:
        for entry in [*old.infolist(), old.infolist()[-1]]:
            new.writestr(entry.filename, old.read(entry))

    with pytest.warns(UserWarning, match="Duplicate name"):
        path = rewritten(saved(state, tmp_path / "w.pth"), double)
    with pytest.raises(WeightsError, match="a record is there twice"):
        load(path)


def test_a_changed_number_in_an_archive_is_noticed(tmp_path: Path, state: dict[str, Tensor]) -> None:
    path = saved(state, tmp_path / "w.pth")
    load(path)
    data = bytearray(path.read_bytes())
    at = data.index(state["norm.bias"].numpy().tobytes())
    data[at + 5] ^= 1
    path.write_bytes(data)
    assert not torch.equal(torch.load(path, weights_only=True)["norm.bias"], state["norm.bias"])
    with pytest.raises(WeightsError, match=r"damaged or incomplete .*CRC"):
        load(path)


def test_an_archive_that_claims_to_be_one_of_several_is_damaged(
    tmp_path: Path, state: dict[str, Tensor]
) -> None:
    """Python refuses to say whether that is an archive; found by the fuzzer."""
    path = tmp_path / "x.pth"
    torch.save(state, path)
    data = bytearray(path.read_bytes())
    locator = data.rindex(b"PK\x06\x07")  # Zip64: signature, disk, offset, number of disks
    data[locator + 16] = 2
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=r"damaged or incomplete .*disks"):
        load(path)


def test_archives_without_checksums_load(tmp_path: Path, state: dict[str, Tensor]) -> None:
    """torch can leave the sums out; then they are all zero."""
    torch.serialization.set_crc32_options(False)
    try:
        path = saved(state, tmp_path / "w.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    assert torch.equal(load(path).norm.bias, state["norm.bias"])


@pytest.mark.parametrize("size", [(65,), (1 << 20,)])
def test_a_tensor_that_reaches_beyond_its_data(tmp_path: Path, state: dict[str, Tensor], size: tuple) -> None:
    """torch could enlarge the storage, and fill the rest with whatever lies in memory."""

    class Longer:
        def __reduce_ex__(self, _: int) -> tuple:
            storage = state["norm.bias"].untyped_storage()
            typed = torch.storage.TypedStorage(wrap_storage=storage, dtype=torch.float32, _internal=True)
            return torch._utils._rebuild_tensor_v2, (typed, 0, size, (1,), False, {})

    for archive in (True, False):
        path = tmp_path / f"{archive}.pth"
        torch.save({**state, "norm.bias": Longer()}, path, _use_new_zipfile_serialization=archive)
        with pytest.raises(WeightsError, match="damaged or incomplete"):
            load(path)


def test_data_that_no_tensor_uses(tmp_path: Path, state: dict[str, Tensor]) -> None:
    def more(old: zipfile.ZipFile, new: zipfile.ZipFile) -> None:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
        new.writestr(old.infolist()[0].filename.replace("data.pkl", "data/99"), bytes(8))

    path = rewritten(saved(state, tmp_path / "w.pth"), more)
    with pytest.raises(WeightsError, match="the data of 22 tensors, and 21 are used"):
        load(path)


@pytest.mark.parametrize("ending", ["npz", "zip"])
def test_other_archives_are_named(tmp_path: Path, ending: str) -> None:
    path = tmp_path / "w.pth"
    if ending == "npz":
        with path.open("wb") as file:
            np.savez(file, a=np.zeros(3))
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("readme.txt", "hello")
    match = (
        r"NumPy archive \(\.npz\) that holds a\.npy" if ending == "npz" else r"zip archive that holds readme"
    )
    with pytest.raises(WeightsError, match=match):
        load(path)


# ---- safetensors ----------------------------------------------------------------------------------------


def edited(state: dict[str, Tensor], path: Path, edit: Callable[[dict], Any]) -> Path:
    """A safetensors file whose header went through `edit`; a text that it returns is written as it is."""
    save_file(state, path)
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    text = edit(header)
    text = (text if isinstance(text, str) else json.dumps(header)).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
    return path


def huge(header: dict) -> None:
    header["norm.bias"]["shape"] = [1 << 40]


def huge_and_consistent(header: dict) -> None:
    header["norm.bias"] |= {"shape": [1 << 40], "data_offsets": [0, 1 << 42]}


def negative(header: dict) -> None:
    header["norm.bias"]["data_offsets"] = [-256, 0]


def overlapping(header: dict) -> None:
    header["norm.bias"]["data_offsets"] = header["norm.weight"]["data_offsets"]


def backwards(header: dict) -> None:
    header["norm.bias"]["data_offsets"].reverse()


def wrapping(header: dict) -> None:
    header["norm.bias"]["shape"] = [1 << 62, 4, 64]


def other_type(header: dict) -> None:
    header["norm.bias"]["dtype"] = "F17"


def hole(header: dict) -> None:
    del header["norm.bias"]


def twice(header: dict) -> str:
    text = json.dumps({"norm.bias": header["norm.bias"]})
    return text[:-1] + ", " + json.dumps(header)[1:]


def deep(header: dict) -> str:
    return '{"a":' + "[" * 100_000 + "]" * 100_000 + "}"


@pytest.mark.parametrize(
    "edit",
    [huge, huge_and_consistent, negative, overlapping, backwards, wrapping, other_type, hole, twice, deep],
)
def test_headers_that_lie(tmp_path: Path, state: dict[str, Tensor], edit: Callable[[dict], Any]) -> None:
    path = edited(state, tmp_path / "w.safetensors", edit)
    with pytest.raises(WeightsError, match="damaged or incomplete"):
        load(path)
    assert "damaged" in inspect(path)["problem"]


def test_a_header_that_claims_to_be_longer_than_the_file(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    for length in (9, 1 << 31, (1 << 63) - 1, (1 << 64) - 1):
        path.write_bytes(struct.pack("<Q", length) + b'{"a":{}}')
        with pytest.raises(WeightsError, match="damaged or incomplete"):
            load(path)


def test_a_changed_number_in_our_own_file_is_noticed(tmp_path: Path, state: dict[str, Tensor]) -> None:
    model = VisionTransformer(**SMALL)
    model.load_state_dict(state)
    save_backbone(model, tmp_path, provenance={}, mean=(0, 0, 0), std=(1, 1, 1))
    path = tmp_path / "model.safetensors"
    load(tmp_path)
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    load_file(path)
    with pytest.raises(WeightsError, match="the sha256 inside the file does not agree"):
        load(tmp_path)


def test_a_changed_description_in_our_own_file_is_noticed(tmp_path: Path, state: dict[str, Tensor]) -> None:
    model = VisionTransformer(**SMALL)
    save_backbone(model, tmp_path, provenance={}, mean=(0.25, 0, 0), std=(1, 1, 1))
    (tmp_path / "config.json").unlink()
    path = tmp_path / "model.safetensors"
    data = path.read_bytes()
    assert data.count(b"0.25") == 1
    path.write_bytes(data.replace(b"0.25", b"0.75"))
    with pytest.raises(WeightsError, match="does not agree"):
        load(tmp_path)


# ---- tensors that are no weights --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tensor", "match"),
    [
        (torch.zeros(64, dtype=torch.int8), "int8"),
        (torch.zeros(64, dtype=torch.float8_e4m3fn), "float8_e4m3fn"),
        (torch.zeros(64, dtype=torch.complex64), "complex64"),
        (torch.zeros(64, dtype=torch.bool), "bool"),
        (torch.zeros(64).to_sparse(), "sparse"),
        (torch.zeros(64, device="meta"), "without data|holds no numbers"),
        (torch.full((64,), float("nan")), r"NaN or infinite values in norm\.bias"),
        (torch.full((64,), float("inf"), dtype=torch.float16), r"NaN or infinite values in norm\.bias"),
    ],
    ids=("int8", "float8", "complex", "bool", "sparse", "meta", "nan", "inf"),
)
def test_tensors_that_cannot_be_weights(
    tmp_path: Path, state: dict[str, Tensor], tensor: Tensor, match: str
) -> None:
    path = saved({**state, "norm.bias": tensor}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=match):
        load(path)


# ---- at random ---------------------------------------------------------------------------------------------


def test_a_thousand_mutations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`python -m benchmarks.fuzz_weights` does ten thousand."""
    monkeypatch.setenv("NEXUS_OFFLINE", "1")
    counts, failures = fuzz(1000, 77, tmp_path)
    assert failures == []
    assert set(counts) >= CHECKED
    for name, count in counts.items():
        assert count["refused"] > 0.3 * count.total(), f"{name}: the mutations hit nothing"


@pytest.mark.parametrize("mark", ["format", "sha256"])
def test_one_damaged_mark_does_not_switch_the_checksum_off(
    tmp_path: Path, state: dict[str, Tensor], mark: str
) -> None:
    """Found by the fuzzer: a name in the metadata and a number changed at once."""
    model = VisionTransformer(**SMALL)
    model.load_state_dict(state)
    save_backbone(model, tmp_path, provenance={}, mean=(0, 0, 0), std=(1, 1, 1))
    path = tmp_path / "model.safetensors"
    data = path.read_bytes()
    data = data.replace(f'"{mark}":'.encode(), f'"{mark[:-1]}_":'.encode(), 1)
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(WeightsError, match="damaged"):
        load(tmp_path)
