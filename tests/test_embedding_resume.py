"""A feature file whose job was stopped: by Ctrl-C, kill -9, a full disk; and how little memory it takes."""

import hashlib
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from nexus.embedding import embed, partial
from nexus.embedding.job import partial_folder
from nexus.errors import DataError, RunError
from tests.evals.stubs import MemoryImages, TinyBackbone

ENDINGS = (".parquet", ".npy", ".safetensors")
SETTINGS = {
    "size": 32,
    "batch_size": 2,
    "device": "cpu",
    "features": ("mean_patch", "cls", "patches"),
}


def network() -> TinyBackbone:
    """The same weights every time."""
    torch.manual_seed(3)
    return TinyBackbone()


def images() -> MemoryImages:
    return MemoryImages(count=23, broken=(0, 1, 7, 22))


def contents(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
        if path.is_file()
    }


def stop_at(image: int):
    """A progress report that presses Ctrl-C once `image` images are done."""

    def report(done: int, total: int) -> None:
        if done >= image:
            raise KeyboardInterrupt

    return report


@pytest.mark.parametrize("ending", ENDINGS)
def test_stopped_again_and_again_the_file_is_the_same_to_the_byte(tmp_path: Path, ending: str) -> None:
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    embed(images(), network(), whole / f"x{ending}", **SETTINGS)
    for image in (2, 4, 5, 16, 22, 23):
        with pytest.raises(KeyboardInterrupt):
            embed(images(), network(), pieces / f"x{ending}", progress=stop_at(image), **SETTINGS)
        assert not (pieces / f"x{ending}").exists()
    written = embed(images(), network(), pieces / f"x{ending}", **SETTINGS)
    assert written.resumed_at == 23
    assert written.unreadable == 4
    assert contents(pieces) == contents(whole)
    assert not partial_folder(pieces / f"x{ending}").exists()


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_was_not_committed_is_done_again(
    tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut leaves rows beyond the last commit, files of the end, and half a state."""
    embed(images(), network(), tmp_path / f"whole/x{ending}", **SETTINGS)
    out = tmp_path / f"cut/x{ending}"
    with pytest.raises(KeyboardInterrupt):
        embed(images(), network(), out, progress=stop_at(8), **SETTINGS)
    folder = partial_folder(out)
    for path in folder.glob("*.raw"):
        with path.open("ab") as file:
            file.write(b"half a row")
    (folder / "whole").write_bytes(b"half a file")
    (folder / ".state.json.writing").write_text("{")
    seen = []
    embed(images(), network(), out, progress=lambda done, total: seen.append(done), **SETTINGS)
    assert seen == [*range(10, 23, 2), 23]
    assert contents(out.parent) == contents(tmp_path / "whole")


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("moved", range(6))
def test_stopped_while_files_get_their_names(
    tmp_path: Path, ending: str, moved: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed(images(), network(), tmp_path / f"whole/x{ending}", **SETTINGS)
    out = tmp_path / f"cut/x{ending}"
    with monkeypatch.context() as patch:
        left = [moved]

        def replace(source: Path, target: Path) -> None:
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            Path(source).rename(target)

        patch.setattr("nexus.embedding.job.os.replace", replace)
        patch.setattr(partial.PartialTable, "remove", lambda self: stop_at(0)(1, 1))
        with pytest.raises(KeyboardInterrupt):
            embed(images(), network(), out, **SETTINGS)
    written = embed(images(), network(), out, **SETTINGS)
    assert written.rows == 19
    assert contents(out.parent) == contents(tmp_path / "whole")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 3}, "batch_size was 2, is 3"),
        ({"size": 40}, "size was 32, is 40"),
        ({"precision": "bf16"}, "precision was fp32, is bf16"),
        ({"dtype": "float16"}, "dtype was float32, is float16"),
        ({"features": ["cls"]}, "features"),
        ({"mean": (0.1,) * 3}, "its normalization changed"),
        ({"model": TinyBackbone()}, "model was"),
        ({"data": MemoryImages(count=24)}, "data was MemoryImages"),
    ],
)
def test_another_job_in_the_same_place_is_refused_by_name(tmp_path: Path, change: dict, message: str) -> None:
    out = tmp_path / "x.npy"
    with pytest.raises(KeyboardInterrupt):
        embed(images(), network(), out, progress=stop_at(6), **SETTINGS)
    before = contents(partial_folder(out))
    arguments = {"data": images(), "model": network(), "out": out, **SETTINGS, **change}
    with pytest.raises(RunError, match=rf"4 rows of another job \(.*{message}.*--overwrite"):
        embed(**arguments)
    assert contents(partial_folder(out)) == before
    assert embed(**arguments, overwrite=True).resumed_at == 0
    assert not partial_folder(out).exists()


def test_overwrite_goes_on_with_its_own_job_and_keeps_the_old_file_until_the_end(tmp_path: Path) -> None:
    out = tmp_path / "x.npy"
    out.write_text("old")
    with pytest.raises(KeyboardInterrupt):
        embed(images(), network(), out, overwrite=True, progress=stop_at(6), **SETTINGS)
    assert out.read_text() == "old"
    with pytest.raises(RunError, match="exists"):
        embed(images(), network(), out, **SETTINGS)
    assert embed(images(), network(), out, overwrite=True, **SETTINGS).resumed_at == 6


def test_a_damaged_folder_is_said(tmp_path: Path) -> None:
    out = tmp_path / "x.npy"
    with pytest.raises(KeyboardInterrupt):
        embed(images(), network(), out, progress=stop_at(6), **SETTINGS)
    os.truncate(partial_folder(out) / "cls.raw", 5)
    with pytest.raises(RunError, match=r"cls\.raw is damaged"):
        embed(images(), network(), out, **SETTINGS)


def test_a_second_process_waits_outside(tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    out = tmp_path / "x.npy"
    with pytest.raises(KeyboardInterrupt):
        embed(images(), network(), out, progress=stop_at(6), **SETTINGS)
    lock = partial_folder(out) / partial.LOCK
    held = f"f = open({str(lock)!r}, 'w'); fcntl.lockf(f, fcntl.LOCK_EX)"
    code = f"import fcntl; {held}; print(1, flush=True); input()"
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert fcntl
    assert child.stdout.readline() == b"1\n"
    with pytest.raises(RunError, match="another process is writing"):
        embed(images(), network(), out, **SETTINGS)
    child.communicate(b"\n")
    assert embed(images(), network(), out, **SETTINGS).resumed_at == 6


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_full_disk_is_one_message_and_the_job_goes_on(
    tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit on the size of files stands for the disk: the system refuses the write in the same way."""
    embed(images(), network(), tmp_path / f"whole/x{ending}", **SETTINGS)
    out = tmp_path / f"full/x{ending}"
    monkeypatch.setattr(partial, "COMMIT_SECONDS", 0.0)
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3_000, old[1]))
    try:
        with pytest.raises(RunError, match=r"could not be written: .*the same command goes on"):
            embed(images(), network(), out, **SETTINGS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert embed(images(), network(), out, **SETTINGS).resumed_at > 0
    assert contents(out.parent) == contents(tmp_path / "whole")


def test_a_place_that_cannot_be_written_is_refused_before_anything_is_computed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    backbone = network()
    with pytest.raises(RunError, match="choose another --out"):
        embed(images(), backbone, tmp_path / "file/x.npy", **SETTINGS)
    if os.geteuid():  # root may write anywhere
        (tmp_path / "closed").mkdir(mode=0o500)
        with pytest.raises(RunError, match="nothing may be written to"):
            embed(images(), backbone, tmp_path / "closed/x.npy", **SETTINGS)
    assert backbone.shapes == []


def test_an_empty_source_does_not_disturb_what_an_earlier_job_left(tmp_path: Path) -> None:
    out = tmp_path / "x.npy"
    with pytest.raises(KeyboardInterrupt):
        embed(images(), network(), out, progress=stop_at(6), **SETTINGS)
    with pytest.raises((RunError, DataError)):
        embed(MemoryImages(count=0), network(), out, **SETTINGS)
    assert embed(images(), network(), out, **SETTINGS).resumed_at == 6


CHILD = """
import resource, sys, time, torch
from nexus.embedding import embed, formats, partial
from tests.evals.stubs import MemoryImages, TinyBackbone

class Many(MemoryImages):
    def __init__(self, count):
        super().__init__(count=8)
        self.count = count
    def __len__(self):
        return self.count
    def __getitem__(self, index):
        return super().__getitem__(index % 8)

torch.set_num_threads(1)
partial.COMMIT_SECONDS = 0.05
formats._BLOCK_BYTES = 1 << 22
torch.manual_seed(3)
backbone = TinyBackbone(dim=512)
for job in sys.argv[1:]:
    out, count, delay = job.split("*")
    embed(Many(int(count)), backbone, out, size=32, batch_size=64, device="cpu",
          features=["cls", "patches"], progress=lambda done, total: time.sleep(float(delay)))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, flush=True)
"""


def child(*jobs: tuple[Path, int, float]) -> subprocess.Popen:
    """Another process that writes some files: where, how many images, seconds of rest after each batch."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", CHILD, *("*".join(map(str, job)) for job in jobs)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def test_killed_without_warning_it_goes_on(tmp_path: Path) -> None:
    """kill -9 in the middle, then the same call again, against a run that was left alone."""
    out = tmp_path / "a/x.npy"
    process = child((out, 640, 0.1))
    state = partial_folder(out) / partial.STATE
    ends = time.monotonic() + 60
    while not state.exists() and time.monotonic() < ends:
        time.sleep(0.01)
    process.kill()
    process.wait()
    process.stdout.close()
    assert state.exists()
    assert not out.exists()
    said, _ = child((out, 640, 0.0), (tmp_path / "b/x.npy", 640, 0.0)).communicate(timeout=60)
    assert len(said.splitlines()) == 2
    assert contents(out.parent) == contents(tmp_path / "b")


def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    """Tables of 68 MB: they may cost a few blocks of rows of 4 MB at the end, not themselves."""
    small = [(tmp_path / f"small{ending}", 200, 0.0) for ending in ENDINGS]
    large = [(tmp_path / f"large{ending}", 2_000, 0.0) for ending in ENDINGS]
    said, _ = child(*small, *large).communicate(timeout=120)
    peaks = [float(line) for line in said.splitlines()]
    assert (tmp_path / "large.parquet").stat().st_size > 68_000_000
    assert peaks[-1] - peaks[2] < 25, peaks
