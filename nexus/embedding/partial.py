"""Columns that grow on disk, batch by batch, so that a kill at any moment costs a few seconds.

::

    x.parquet.partial/
      state.json      how far: images seen, rows, and the length of each file; replaced in one move
      cls.raw, ...    the rows of a column, one after the other
      names.jsonl     a name a line
      faults.jsonl    [name, reason] a line

What lies beyond the lengths in `state.json` was not committed and is cut off when the job goes on.
"""

import contextlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from nexus import checkpoint
from nexus.data.batch import Fault
from nexus.errors import RunError

log = logging.getLogger(__name__)

NAMES, FAULTS, STATE, LOCK = "names.jsonl", "faults.jsonl", "state.json", ".lock"

COMMIT_SECONDS = 2.0
"""A commit waits for the disk, so one comes at most this often, and at the end."""


class PartialTable:
    """The rows written so far. Nothing is on the disk before the first `append`.

    `fingerprint` says what the rows were made of; `reserve` bytes are left free at the beginning of each
    column, for a header.
    """

    def __init__(self, folder: Path, fingerprint: Mapping[str, Any], reserve: int = 0) -> None:
        self.folder = folder
        self.reserve = reserve
        self.images = self.rows = self.unreadable = 0
        self.columns: dict[str, tuple[str, list[int]]] = {}
        """Column → (number type as NumPy writes it, shape of a row); it begins with -1 where rows differ."""
        self.moves: list[tuple[str | None, str]] | None = None
        """Once the final files are complete: file in the folder → final name; None for one to remove."""
        self._fingerprint = dict(fingerprint)
        self._files: dict[str, BinaryIO] = {}
        self._lengths: dict[str, int] = {}
        self._committed_at = time.monotonic()
        self._lock: Any = None

    def __enter__(self) -> "PartialTable":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self._release()

    def resume(self, *, discard: bool) -> None:
        """Take up what an earlier job with the same fingerprint left, if there is anything.

        What another job left is a `RunError` that names the differences, or removed with `discard`.
        """
        if self.folder.is_dir():
            self._claim()
        state = self._read_state()
        if state is None:
            self.remove()
            return
        theirs = state["fingerprint"]
        changed = [
            key for key in {**theirs, **self._fingerprint} if theirs.get(key) != self._fingerprint.get(key)
        ]
        if changed and discard:
            self.remove()
            return
        if changed:
            what = "; ".join(_difference(key, theirs.get(key), self._fingerprint.get(key)) for key in changed)
            raise RunError(
                f"{self.folder} holds {state['rows']:,} rows of another job ({what}); repeat that command to"
                " go on with it, choose another --out, or start anew with --overwrite"
            )
        self.images, self.rows, self.unreadable = state["images"], state["rows"], state["unreadable"]
        self.columns = {name: (dtype, shape) for name, (dtype, shape) in state["columns"].items()}
        self._lengths = state["lengths"]
        self.moves = state["moves"]
        if self.moves is None:
            self._cut()

    def append(
        self,
        images: int,
        names: Sequence[str],
        columns: Mapping[str, np.ndarray | Sequence[np.ndarray]],
        faults: Sequence[Fault],
    ) -> None:
        """Add the rows of the next `images` images of the source; rows of several shapes come in a list."""
        for name, rows in columns.items():
            data, kind = _bytes(rows)
            assert self.columns.setdefault(name, kind) == kind, f"{name} was {self.columns[name]}, is {kind}"
            self._write(f"{name}.raw", data)
        self._write(NAMES, "".join(json.dumps(name) + "\n" for name in names).encode())
        self._write(FAULTS, "".join(json.dumps([f.name, f.reason]) + "\n" for f in faults).encode())
        self.images += images
        self.rows += len(names)
        self.unreadable += len(faults)
        if time.monotonic() - self._committed_at > COMMIT_SECONDS:
            self.commit()

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Whatever ends the block early, what was appended is committed; not where the disk refuses."""
        try:
            yield
        except OSError:
            raise
        except BaseException:
            if self.images:
                self.commit()
            raise

    def commit(self, moves: list[tuple[str | None, str]] | None = None) -> None:
        """Make sure that everything so far survives a power cut."""
        for name, file in self._files.items():
            file.flush()
            os.fsync(file.fileno())
            self._lengths[name] = file.tell()
        self.moves = moves
        state = {
            "fingerprint": self._fingerprint,
            "images": self.images,
            "rows": self.rows,
            "unreadable": self.unreadable,
            "columns": self.columns,
            "lengths": self._lengths,
            "moves": moves,
        }
        self._make_folder()
        checkpoint.write_atomic(self.folder / STATE, json.dumps(state, indent=1))
        self._committed_at = time.monotonic()

    def close(self) -> None:
        """Release the files, written out or not."""
        for file in self._files.values():
            with contextlib.suppress(OSError):
                file.close()
        self._files.clear()

    def _claim(self) -> None:
        """No other process may write here; one that was killed holds nothing."""
        try:
            import fcntl
        except ImportError:
            return
        self._lock = (self.folder / LOCK).open("w")
        try:
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(
                f"another process is writing to {self.folder}; wait for it, or choose another --out"
            ) from None
        except OSError:
            log.debug("no locks on the file system of %s", self.folder)

    def remove(self) -> None:
        """Remove the folder and all that is in it."""
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        self._release()

    def _release(self) -> None:
        """Let other processes write here."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def raw(self, column: str) -> Path:
        """The file of a column."""
        return self.folder / f"{column}.raw"

    def names(self) -> Iterator[str]:
        """The names of all rows, one at a time."""
        with (self.folder / NAMES).open(encoding="utf-8") as lines:
            for line in lines:
                yield json.loads(line)

    def faults(self) -> Iterator[Fault]:
        """The unreadable images, one at a time."""
        if FAULTS in self._files:
            self._files[FAULTS].flush()
        with (self.folder / FAULTS).open(encoding="utf-8") as lines:
            for line in lines:
                yield Fault(*json.loads(line))

    def _write(self, name: str, data: bytes) -> None:
        if name not in self._files:
            self._make_folder()
            self._files[name] = file = (self.folder / name).open("ab")
            if file.tell() == 0 and name.endswith(".raw"):
                file.write(bytes(self.reserve))
        self._files[name].write(data)

    def _make_folder(self) -> None:
        if not self.folder.is_dir():
            self.folder.mkdir(parents=True)
            checkpoint.sync_folder(self.folder.parent)
        if self._lock is None:
            self._claim()

    def _read_state(self) -> dict[str, Any] | None:
        try:
            return json.loads((self.folder / STATE).read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _cut(self) -> None:
        """Every file at its committed length."""
        for path in self.folder.iterdir():
            if path.name not in (STATE, LOCK) and path.name not in self._lengths:
                path.unlink()
        for name, length in self._lengths.items():
            path = self.folder / name
            if not path.is_file() or path.stat().st_size < length:
                raise RunError(
                    f"{path} is damaged: it is shorter than what was written; start anew with --overwrite"
                )
            os.truncate(path, length)


def _bytes(rows: np.ndarray | Sequence[np.ndarray]) -> tuple[bytes, tuple[str, list[int]]]:
    """The little-endian bytes of some rows, and the number type and row shape."""
    if isinstance(rows, np.ndarray):
        dtype = rows.dtype.newbyteorder("<")
        return np.ascontiguousarray(rows, dtype=dtype).tobytes(), (dtype.str, list(rows.shape[1:]))
    dtype = rows[0].dtype.newbyteorder("<")
    data = b"".join(np.ascontiguousarray(row, dtype=dtype).tobytes() for row in rows)
    return data, (dtype.str, [-1, *rows[0].shape[1:]])


def _difference(key: str, before: Any, now: Any) -> str:
    if len(str(before)) + len(str(now)) > 60:
        return f"its {key} changed"
    return f"{key} was {before}, is {now}"
