"""Checkpoints that a kill at any moment cannot damage, and small files that are never half written.

::

    checkpoints/
      step_0001000/            complete: it was renamed into place after everything was on the disk
        __0_0.distcp, .metadata   tensors, in torch's distributed checkpoint format (any world size)
        state.json                step, other plain values, and the checksum of each other file
      .writing-step_0002000/   anything whose name starts with a dot is unfinished, damaged or on its way
                               out; it is ignored, and removed at the next save
"""

import json
import os
import shutil
import warnings
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException

from nexus.distributed import Group, is_main, on_each, on_main, rank, world_size
from nexus.errors import RunError
from nexus.log import logger

State = dict[str, Any]

_BLOCK = 1 << 22


class DamagedCheckpoint(RunError):
    """A checkpoint that the disk did not keep as it was written."""


# -- saving ---------------------------------------------------------------------------------------


def save(
    folder: Path,
    step: int,
    tensors: Mapping[str, Tensor],
    values: State,
    keep: int,
    group: Group = None,
) -> Path:
    """Write `folder/step_NNNNNNN` atomically, then remove all but the newest `keep` checkpoints.

    `tensors` may be sharded (DTensor); `values` is whatever JSON holds. A full or read-only disk raises
    `RunError` and leaves earlier checkpoints as they were. In a run of several processes all of them call
    it and write their parts; `group` is how they talk. The main one renames when all have written, and an
    error of one is raised in all.
    """
    target = folder / f"step_{step:07d}"
    writing = folder / f".writing-{target.name}"
    try:
        on_main(lambda: _clear(folder), group)
        _write(writing, tensors, {**values, "step": step}, group)
        on_main(lambda: _publish(writing, target), group)
    except (OSError, RuntimeError, CheckpointException) as error:
        if is_main():
            shutil.rmtree(writing, ignore_errors=True)
        _obey_interrupt(error)
        raise RunError(
            f"the checkpoint of step {step} could not be written to {folder}: {_cause(error)}. Free space "
            "or mend the permissions, then go on with `nexus train --resume`; earlier checkpoints are "
            "intact."
        ) from error
    if is_main():
        for old in list_checkpoints(folder)[: -max(keep, 1)]:
            _set_aside(old)
        _remove_leftovers(folder)
    return target


def _clear(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(folder)


def _write(folder: Path, tensors: Mapping[str, Tensor], values: State, group: Group) -> None:
    with _quiet():
        dcp.save(dict(tensors), checkpoint_id=folder, process_group=group)
    sums = {
        name: value for part in on_each(lambda: _my_checksums(folder), group) for name, value in part.items()
    }
    on_main(lambda: write_atomic(folder / "state.json", json.dumps({**values, "files": sums})), group)


def _my_checksums(folder: Path) -> dict[str, str]:
    """Of the files `__RANK_*` that this process wrote, and of all others in the main process."""
    theirs = tuple(f"__{other}_" for other in range(world_size()) if other != rank())
    found = [path for path in sorted(folder.iterdir()) if not path.name.startswith(theirs)]
    mine = [path for path in found if is_main() or path.name.startswith(f"__{rank()}_")]
    return {path.name: _checksum(path) for path in mine}


def _publish(writing: Path, target: Path) -> None:
    sync_folder(writing)
    if target.exists():
        _set_aside(target)
    writing.rename(target)
    sync_folder(target.parent)


def _set_aside(checkpoint: Path) -> Path:
    """Hide a checkpoint in one move, so that a kill while it is removed leaves no half of it."""
    hidden = checkpoint.with_name(f".old-{checkpoint.name}")
    shutil.rmtree(hidden, ignore_errors=True)
    return checkpoint.rename(hidden)


def _remove_leftovers(folder: Path) -> None:
    for leftover in folder.glob(".*step_*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _obey_interrupt(error: BaseException) -> None:
    """Raise the Ctrl-C that torch wrapped into one of its own errors, if that is what happened."""
    if isinstance(error, CheckpointException):
        for failure, _ in error.failures.values():
            if isinstance(failure, KeyboardInterrupt):
                raise failure


def _cause(error: BaseException) -> str:
    """The reason of a failure, without the traceback that torch puts around it."""
    if isinstance(error, CheckpointException) and error.failures:
        error = next(iter(error.failures.values()))[0]
    return str(error).partition("\n")[0] or type(error).__name__


# -- loading --------------------------------------------------------------------------------------


def load_newest(folder: Path, tensors: Mapping[str, Tensor]) -> State | None:
    """Fill `tensors` from the newest sound checkpoint and return its plain values; None without any.

    A damaged checkpoint is set aside with a warning and the one before it is taken. Raises `RunError`
    if all are damaged, or if the newest is of another model.
    """
    damaged: list[DamagedCheckpoint] = []
    for path in reversed(on_main(lambda: list_checkpoints(folder))):
        try:
            values = load(path, tensors)
        except DamagedCheckpoint as error:
            damaged.append(error)
            continue
        for problem in damaged:
            logger.warning("%s Going on from step %d instead.", problem, values["step"])
        if is_main():
            for newer in list_checkpoints(folder):
                if step_of(newer) > values["step"]:
                    _set_aside(newer)
        return values
    if damaged:
        raise RunError(
            f"no checkpoint in {folder} can be read, so there is nothing to go on from. Start over with "
            f"--overwrite, or from the weights that are left with --init. {damaged[0]}"
        )
    return None


def load(path: Path, tensors: Mapping[str, Tensor]) -> State:
    """Fill `tensors` in place from a checkpoint folder and return its plain values.

    Raises `DamagedCheckpoint` if a file is missing or differs from what was written, `RunError` if names
    or shapes are not those of `tensors`.
    """
    try:
        values = on_main(lambda: _sound(path))
        with _quiet():
            _check_fit(path, tensors)
            dcp.load(dict(tensors), checkpoint_id=path)
    except RunError:
        raise
    except (OSError, RuntimeError, ValueError, EOFError, CheckpointException) as error:
        _obey_interrupt(error)
        raise DamagedCheckpoint(f"{path} is damaged: {_cause(error)}.") from error
    return values


def _sound(path: Path) -> State:
    """The plain values of a checkpoint whose files are as they were written, else `ValueError`."""
    values: State = json.loads((path / "state.json").read_text())
    for name, checksum in values.pop("files", {}).items():
        if _checksum(path / name) != checksum:
            raise ValueError(f"{name} is not as it was written")
    return values


def _check_fit(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise `RunError` unless the checkpoint holds exactly these names with these shapes."""
    metadata = dcp.FileSystemReader(path).read_metadata().state_dict_metadata
    saved = {name: tuple(getattr(entry, "size", ())) for name, entry in metadata.items()}
    wanted = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    problems = [f"it has no {name}" for name in wanted if name not in saved]
    problems += [f"{name} is new to this configuration" for name in saved if name not in wanted]
    problems += [
        f"{name} is {saved[name]} in it and {shape} now"
        for name, shape in wanted.items()
        if saved.get(name, shape) != shape
    ]
    if problems:
        more = f" (and {len(problems) - 1} more differences)" if len(problems) > 1 else ""
        raise RunError(
            f"{path} belongs to another model: {problems[0]}{more}. Resume without changes to model.*, "
            "objective.* and crops.global_size, or start a new run from its weights with --init."
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's remark that it saves from a single process; that is what we want."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*single process.*")
        yield


def _checksum(path: Path) -> str:
    """`size-crc32`: enough to notice a file that was cut off or changed."""
    size = total = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            size, total = size + len(block), zlib.crc32(block, total)
    return f"{size}-{total:08x}"


def list_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    found = (path for path in folder.glob("step_*") if path.name.removeprefix("step_").isdigit())
    return sorted((path for path in found if (path / "state.json").exists()), key=step_of)


def latest(folder: Path) -> Path | None:
    """The newest complete checkpoint, if there is one."""
    found = list_checkpoints(folder)
    return found[-1] if found else None


def step_of(path: Path) -> int:
    """The step in a checkpoint folder's name."""
    return int(path.name.removeprefix("step_"))


# -- small files ----------------------------------------------------------------------------------


def sync_folder(folder: Path) -> None:
    """Make a rename inside `folder` survive a power cut, where folders can be opened (not on Windows)."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Make the folder that results are going to be written to; `RunError` where that is impossible."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(
            f"the folder {path} cannot be made: {error.strerror or error}; choose another --out"
        ) from None
    if not os.access(path, os.W_OK):
        raise RunError(f"nothing may be written to {path}; mend its permissions, or choose another --out")


def write_atomic(path: Path, text: str) -> None:
    """Write a small text file so that it is either the old or the new one, never half of it."""
    temporary = path.with_name(f".{path.name}.writing")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def append(path: Path, text: str) -> None:
    """Add text at the end of a file; where the disk refuses, the file stays as it was."""
    with path.open("ab", buffering=0) as file:
        before = file.tell()
        data = text.encode()
        try:
            if file.write(data) != len(data):
                raise OSError(f"only a part of {path.name} could be written")
        except OSError:
            file.truncate(before)
            raise
