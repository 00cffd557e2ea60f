"""Mutations of small valid weight files: each must be refused in one message, or load what was written.

    python -m benchmarks.fuzz_weights --mutations 10000 --seed 0

Every mutated file is loaded in a child process whose memory is limited, so that a header which makes the
reader allocate what the file does not hold counts as a failure. What may come out:

* `refused`: one `WeightsError` (or `ConfigError`);
* `exact`: the mutation hit a byte that means nothing;
* `values`: the tensors have the same names and shapes, but other numbers. Allowed only for files that carry
  no checksum: safetensors of others, and pickles older than torch's archives. No reader can notice.

Anything else is a failure: another exception, a crash, a hang, code that ran, a model with other shapes.
"""

import argparse
import json
import multiprocessing
import os
import random
import resource
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from nexus.errors import ConfigError, WeightsError
from nexus.models.vision import VisionTransformer
from nexus.weights import inspect, load_with_report, save_backbone

MEMORY = 3 << 30
"""Bytes of address space that a child may have in addition to what it begins with."""
SECONDS = 60.0
"""For one file."""

SMALL = {"img_size": 8, "patch_size": 4, "embed_dim": 64, "depth": 1, "num_heads": 1, "mlp_ratio": 0.5}
CHECKED = {"nexus", "nexus, config.json", "archive", "training dump"}
"""Seeds with checksums: no changed number may pass."""


def backbone() -> VisionTransformer:
    """A backbone in which no two tensors are alike."""
    torch.manual_seed(5)
    model = VisionTransformer(**SMALL).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return model


def seeds(folder: Path) -> dict[str, tuple[Path, Path]]:
    """By name: the file to mutate, and what to load."""
    model, state = backbone(), backbone().state_dict()
    made: dict[str, tuple[Path, Path]] = {}

    def place(name: str) -> Path:
        path = folder / name.replace(",", "").replace(" ", "_")
        path.mkdir(parents=True)
        return path

    for name, mutated in (("nexus", "model.safetensors"), ("nexus, config.json", "config.json")):
        where = place(name)
        save_backbone(model, where, provenance={"step": 1}, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
        made[name] = where / mutated, where
    path = place("foreign safetensors") / "w.safetensors"
    save_file(state, path)
    made["foreign safetensors"] = path, path
    path = place("archive") / "w.pth"
    torch.save(state, path)
    made["archive"] = path, path
    path = place("legacy pickle") / "w.pth"
    torch.save(state, path, _use_new_zipfile_serialization=False)
    made["legacy pickle"] = path, path
    path = place("training dump") / "w.pth"
    dump = {f"backbone.{key}": value for key, value in state.items()}
    torch.save({"teacher": {**dump, "dino_head.mlp.0.weight": torch.randn(4, 4)}, "iteration": 3}, path)
    made["training dump"] = path, path
    made |= _huggingface(place("huggingface config"), "huggingface config", "config.json")
    made |= _huggingface(place("huggingface index"), "huggingface index", "model.safetensors.index.json")
    return made


def _huggingface(folder: Path, name: str, mutated: str) -> dict[str, tuple[Path, Path]]:
    """A folder as transformers writes it, in two parts with an index; left out if it cannot be loaded yet."""
    try:
        from transformers import Dinov2Config, Dinov2Model
        from transformers.utils import logging
    except ImportError:
        return {}
    logging.disable_progress_bar()
    sizes = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1, "image_size": 8}
    model = Dinov2Model(Dinov2Config(**sizes, patch_size=4, mlp_ratio=1))
    size = sum(value.numel() * 4 for value in model.state_dict().values())
    shard = size * 2 // 3 if mutated.endswith("index.json") else 2 * size
    model.save_pretrained(folder, max_shard_size=shard)
    try:
        load_with_report(folder)
    except WeightsError:
        return {}
    return {name: (folder / mutated, folder)}


# -- mutations ---------------------------------------------------------------------------------------

_TEXTS = (
    b"0",
    b"9",
    b"-1",
    b"1e999",
    b"NaN",
    b"null",
    b"[]",
    b"{}",
    b'""',
    b"1099511627776",
    b"true",
    b"[" * 99,
)


def mutate(data: bytes, draw: random.Random) -> bytes:
    """One to three changes: bits, bytes, numbers, cuts, copies, insertions; near the ends more often."""
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        draw.choice(_MUTATIONS)(changed, draw)
    return bytes(changed)


def _where(data: bytearray, draw: random.Random) -> int:
    near = min(len(data), 4096)
    start = draw.choice((0, 0, max(len(data) - near, 0), None))
    return draw.randrange(max(len(data), 1)) if start is None else start + draw.randrange(max(near, 1))


def _bit(data: bytearray, draw: random.Random) -> None:
    if data:
        data[_where(data, draw) % len(data)] ^= 1 << draw.randrange(8)


def _byte(data: bytearray, draw: random.Random) -> None:
    if data:
        data[_where(data, draw) % len(data)] = draw.randrange(256)


def _number(data: bytearray, draw: random.Random) -> None:
    size = draw.choice("BHIQ")
    value = draw.choice((0, 1, 255, 2**15, 2**31 - 1, 2**31, 2**40, 2**63, 2**64 - 1))
    packed = struct.pack(f"<{size}", value % (1 << 8 * struct.calcsize(size)))
    at = _where(data, draw)
    data[at : at + len(packed)] = packed


def _digit(data: bytearray, draw: random.Random) -> None:
    """Another digit in a text, as in a shape, an offset or a name."""
    at = _where(data, draw)
    found = next((i for i in range(at, min(at + 2000, len(data))) if 48 <= data[i] <= 57), None)
    if found is not None:
        data[found] = 48 + draw.randrange(10)


def _text(data: bytearray, draw: random.Random) -> None:
    at = _where(data, draw)
    data[at : at + draw.choice((0, 1, 1, 4))] = draw.choice(_TEXTS)


def _cut(data: bytearray, draw: random.Random) -> None:
    del data[_where(data, draw) :]


def _remove(data: bytearray, draw: random.Random) -> None:
    at = _where(data, draw)
    del data[at : at + draw.choice((1, 2, 8, 64, 1000))]


def _copy(data: bytearray, draw: random.Random) -> None:
    at, other, size = _where(data, draw), _where(data, draw), draw.choice((1, 4, 30, 200))
    data[at:at] = data[other : other + size]


def _swap(data: bytearray, draw: random.Random) -> None:
    at, other, size = _where(data, draw), _where(data, draw), draw.choice((1, 4, 30, 200))
    data[at : at + size] = data[other : other + size]


def _append(data: bytearray, draw: random.Random) -> None:
    data += draw.randbytes(draw.choice((1, 100)))


_MUTATIONS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    *(_bit, _byte, _byte, _number, _number, _digit, _digit, _text, _cut, _remove, _copy, _swap, _append),
)


# -- one file ----------------------------------------------------------------------------------------


def outcome(source: Path, expected: dict[str, Tensor]) -> str:
    """What loading a mutated file comes to; the text begins with `failure` if that may not be."""
    try:
        model, _ = load_with_report(source)
    except (WeightsError, ConfigError) as error:
        text = str(error)
        return (
            "refused" if len(text) < 2000 and "\n" not in text else f"failure: a long message: {text[:300]}"
        )
    except BaseException as error:
        return f"failure: {type(error).__name__}: {str(error)[:300]}"
    state = model.state_dict()
    if {key: value.shape for key, value in state.items()} != {k: v.shape for k, v in expected.items()}:
        return "failure: a model of other shapes"
    if not all(value.isfinite().all() for value in state.values()):
        return "failure: numbers that are not finite"
    same = all(torch.equal(value, expected[key]) for key, value in state.items())
    return "exact" if same else "values"


def described(source: Path) -> str | None:
    """Inspection never fails on a file that is there: what it raised, if it did."""
    try:
        json.dumps(inspect(source))
    except (WeightsError, ConfigError):
        return None
    except BaseException as error:
        return f"failure: inspect: {type(error).__name__}: {str(error)[:300]}"
    return None


def _work(folder: Path, connection: Any) -> None:
    """Load what is asked for, until nothing is asked any more."""
    torch.set_num_threads(1)
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if sys.platform == "linux" else 0
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    sys.addaudithook(_watch)
    made = seeds(folder)
    originals = {name: file.read_bytes() for name, (file, _) in made.items()}
    expected = {
        name: {key: value.clone() for key, value in load_with_report(source)[0].state_dict().items()}
        for name, (_, source) in made.items()
    }
    connection.send(list(made))
    while (job := connection.recv()) is not None:
        name, number = job
        file, source = made[name]
        file.write_bytes(mutate(originals[name], random.Random(f"{name} {number}")))
        _RAN.clear()
        result = outcome(source, expected[name])
        if not result.startswith("failure") and number % 4 == 0:
            result = described(source) or result
        if result == "values" and name in CHECKED:
            result = "failure: changed numbers in a file with a checksum"
        if _RAN:
            result = f"failure: it did {_RAN[0]}"
        connection.send(result)
        file.write_bytes(originals[name])


_RAN: list[str] = []


def _watch(event: str, arguments: tuple) -> None:
    """Notes what code from a file might do."""
    if event in (
        "os.system",
        "subprocess.Popen",
        "os.exec",
        "os.mkdir",
        "os.remove",
        "socket.connect",
        "os.fork",
    ):
        _RAN.append(f"{event} {arguments!r}"[:200])


# -- all of them -------------------------------------------------------------------------------------


class Child:
    """A process that loads files; replaced when it crashes or hangs."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0
        self.start()

    def start(self) -> None:
        """Begin, with seeds of its own."""
        context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
        self.connection, other = context.Pipe()
        self.count += 1
        where = self.folder / str(self.count)
        self.process = context.Process(target=_work, args=(where, other), daemon=True)
        self.process.start()
        other.close()
        self.names: list[str] = self.connection.recv()

    def ask(self, name: str, number: int) -> str:
        """The outcome of one mutation."""
        try:
            self.connection.send((name, number))
            if self.connection.poll(SECONDS):
                return self.connection.recv()
            result = f"failure: nothing for {SECONDS:.0f} s"
        except (EOFError, OSError):
            self.process.join(5)
            result = f"failure: the process died ({self.process.exitcode})"
        self.process.kill()
        self.start()
        return result

    def close(self) -> None:
        """End the process."""
        self.connection.send(None)
        self.process.join()


def fuzz(mutations: int, seed: int, folder: Path) -> tuple[dict[str, Counter], list[str]]:
    """Outcomes by seed, and the failures."""
    child = Child(folder)
    counts: dict[str, Counter] = {name: Counter() for name in child.names}
    failures = []
    for number in range(mutations):
        name = child.names[number % len(child.names)]
        result = child.ask(name, seed * 1_000_000 + number)
        counts[name][result.partition(":")[0]] += 1
        if result.startswith("failure"):
            failures.append(f"{name}, mutation {seed * 1_000_000 + number}: {result}")
    child.close()
    return counts, failures


def main() -> None:
    """Fuzz, print the table, end with 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--mutations", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    os.environ["NEXUS_OFFLINE"] = "1"
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        counts, failures = fuzz(arguments.mutations, arguments.seed, Path(folder))
    columns = ("refused", "exact", "values", "failure")
    print("| " + " | ".join(("seed file", *columns)) + " |\n|" + "---|" * (len(columns) + 1))
    for name, count in counts.items():
        print("| " + " | ".join((name, *(str(count[column]) for column in columns))) + " |")
    print(f"\n{arguments.mutations:,} mutations in {time.monotonic() - started:.0f} s")
    for failure in failures[:20]:
        print(failure)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
