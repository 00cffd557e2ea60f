"""PyTorch's own files: pickles, of which only tensors and plain values are read, never code.

torch's weights-only reader builds nothing but tensors, numbers, strings and containers. Around it stand
checks that it does not make: the archive is what its checksums say, nothing in it expands, no data is left
over.
"""

import argparse
import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterator
from io import BufferedIOBase, BytesIO
from pathlib import Path
from typing import Any

import torch

from nexus.errors import WeightsError

_BLOCK = 1 << 20
_LONGEST_PICKLE = 1 << 28
_HARMLESS = re.compile(
    r"torch\.(\w+\.)?\w+Storage|torch\._utils\._rebuild_\w+|torch\.(Size|device|b?float\w*|u?int\d+)"
    r"|collections\.(OrderedDict|Counter|defaultdict)"
)


def is_pickle(head: bytes) -> bool:
    """Whether a file begins as torch's archives or older pickles do."""
    return head.startswith((b"PK\x03\x04", b"PK\x05\x06", b"\x80"))


def read_pickle(path: Path) -> Any:
    """What was saved, on the CPU. Raises `WeightsError` for damage, and for pickles that hold objects."""
    records = refuse_damaged_archive(path) if _is_archive(path) else None
    used = 0

    def on_cpu(storage: Any, location: str) -> Any:
        nonlocal used
        used += 1
        return storage

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's remarks about pickle protocols
            # DINO (2021) and timm store the options of a training. Rebuilding a Namespace runs nothing.
            with torch.serialization.safe_globals([argparse.Namespace]):
                content = torch.load(path, map_location=on_cpu, weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(_refused(path, str(error))) from None
    except Exception as error:  # a damaged pickle can raise anything
        text = (str(error) or type(error).__name__).split(". ", 1)[0].splitlines()[0]
        raise WeightsError(damaged(path, text)) from None
    if records is not None and used != records:
        raise WeightsError(damaged(path, f"it holds the data of {records} tensors, and {used} are used"))
    return content


def damaged(path: Path, why: str) -> str:
    """The message for a file that is not what it was."""
    return f"{path} is damaged or incomplete ({why.strip()}); copy or download it again"


# -- the archive ------------------------------------------------------------------------------------


def _is_archive(path: Path) -> bool:
    """Whether a file ends as archives do."""
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile as error:  # its end says that it is one part of several
        raise WeightsError(damaged(path, str(error))) from None


def refuse_damaged_archive(path: Path, *, sums: bool = True) -> int:
    """The number of data records in a PyTorch archive. Raises `WeightsError` unless it is sound.

    Checked: it is one, nothing is compressed (torch never does that, zip bombs do), no record is there
    twice, and with `sums` the CRC-32 of every record.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            _refuse_other_archives(path, [entry.filename for entry in entries])
            _refuse_bomb(path, entries)
            # torch.serialization.set_crc32_options(False) writes zeros everywhere.
            if sums and any(entry.CRC for entry in entries):
                _check_sums(archive)
    except WeightsError:
        raise
    except Exception as error:  # a damaged directory can raise anything
        text = str(error) or type(error).__name__
        raise WeightsError(damaged(path, text.splitlines()[0])) from None
    return sum(re.fullmatch(r"[^/]+/data/[^/]+", entry.filename) is not None for entry in entries)


def _check_sums(archive: zipfile.ZipFile) -> None:
    """Read every record; zipfile compares name and CRC-32 on the way."""
    for entry in archive.infolist():
        with archive.open(entry) as record:
            while record.read(_BLOCK):
                pass


def _refuse_other_archives(path: Path, names: list[str]) -> None:
    if any(re.search(r"(^|/)code/|(^|/)constants\.pkl$", name) for name in names):
        raise WeightsError(
            f"{path} is a TorchScript program: it holds code beside the weights and was not run. Pass the "
            "file of the weights that it was made from"
        )
    if not any(name.endswith("/data.pkl") for name in names):
        kind = "a NumPy archive (.npz)" if all(name.endswith(".npy") for name in names) else "a zip archive"
        some = ", ".join(names[:4]) or "nothing"
        raise WeightsError(
            f"{path} is no weight file: it is {kind} that holds {some}; unpack it and pass the weight file "
            "in it (images in a zip go with --data)"
        )


def _refuse_bomb(path: Path, entries: list[zipfile.ZipInfo]) -> None:
    total, size = sum(entry.file_size for entry in entries), path.stat().st_size
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries) or total > size:
        raise WeightsError(
            f"{path} was not loaded: its records are compressed ({size:,} bytes would become {total:,}), "
            "which PyTorch never writes. Unpack it, and save the tensors again"
        )
    names = [entry.filename for entry in entries]
    if len(set(names)) != len(names):
        raise WeightsError(damaged(path, "a record is there twice"))


# -- what a refused pickle wanted -------------------------------------------------------------------


def _refused(path: Path, message: str) -> str:
    """Why the weights-only reader refused a pickle, in our words."""
    found = re.search(r"(?:GLOBAL|[Uu]nsupported class|unrecognized function) ([\w.]+)", message)
    names = [name for name in imported_names(path) if not _HARMLESS.fullmatch(name)]
    if not names and found is not None:
        names = [found[1].rstrip(".")]
    if not names:
        return damaged(path, "its pickle cannot be understood")
    more = f", and {len(names) - 4} more" if len(names) > 4 else ""
    return (
        f"{path} was not loaded: besides tensors it holds Python objects ({', '.join(names[:4])}{more}), and "
        "rebuilding those can run any code that its author put there. Nothing of it was executed. If you "
        "trust the file, open it in the program that wrote it and save the tensors alone as .safetensors"
    )


def imported_names(path: Path) -> list[str]:
    """What the pickles in a file would import, read off their instructions; nothing is executed."""
    names: dict[str, None] = {}
    try:
        for file in _pickles(path):
            while file.tell() < _LONGEST_PICKLE:
                for name in _imports(file):
                    names[name] = None
    except Exception:  # the end of the pickles, or damage: what was found until there counts
        pass
    return list(names)


def _pickles(path: Path) -> Iterator[BufferedIOBase]:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if entry.filename.endswith(".pkl") and entry.file_size < _LONGEST_PICKLE:
                    yield BytesIO(archive.read(entry))
    else:
        with path.open("rb") as file:
            yield file


def _imports(file: Any) -> Iterator[str]:
    """Imports of one pickle. Since protocol 4 module and name are strings on the stack."""
    strings: list[str] = []
    memo: dict[int, str] = {}
    for operation, argument, _ in pickletools.genops(file):
        if operation.name in ("GLOBAL", "INST"):
            yield str(argument).replace(" ", ".", 1)
        elif operation.name == "STACK_GLOBAL":
            yield ".".join(strings[-2:])
        elif operation.name == "MEMOIZE":
            memo[len(memo)] = strings[-1] if strings else ""
        elif operation.name in ("BINPUT", "LONG_BINPUT") and strings:
            memo[int(argument or 0)] = strings[-1]
        elif operation.name in ("BINGET", "LONG_BINGET"):
            strings.append(memo.get(int(argument or 0), ""))
        elif isinstance(argument, str):
            strings.append(argument)
