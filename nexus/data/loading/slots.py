"""Memory for batches that is used again and again, and that other processes can write into.

A page of fresh memory costs a page fault, and a batch has ten thousand pages; so memory is kept. A slot is
free again when the last tensor that lies in it is gone, whoever held it, so nothing is overwritten in use.
"""

import itertools
import mmap
import os
import tempfile
import weakref
from collections import deque
from multiprocessing import reduction
from multiprocessing.connection import Connection

import numpy as np
from jaxtyping import UInt8

Bytes = UInt8[np.ndarray, " bytes"]


_numbers = itertools.count()


class Slot:
    """A stretch of memory of this process, or of a file without a name that processes share.

    The system takes the file back when the last process that has it open ends, however it ends.
    """

    def __init__(self, size: int, *, shared: bool) -> None:
        self.number = next(_numbers)
        """Of all the slots of this process only this one has it."""
        self.size = size
        self.file = _nameless_file(size) if shared else None
        self.memory = mmap.mmap(-1 if self.file is None else self.file, size)

    def bytes(self) -> Bytes:
        """The memory, as an array object of its own, which all its views keep alive."""
        return np.frombuffer(self.memory, dtype=np.uint8)

    def send(self, connection: Connection, process: int) -> None:
        """Let another process write here: it calls `received`."""
        assert self.file is not None
        reduction.send_handle(connection, self.file, process)

    def __del__(self) -> None:
        if getattr(self, "file", None) is not None:
            os.close(self.file)  # type: ignore[arg-type]


def received(connection: Connection, size: int) -> Bytes:
    """The memory of a slot that was sent through `connection`."""
    file = reduction.recv_handle(connection)
    try:
        return np.frombuffer(mmap.mmap(file, size), dtype=np.uint8)
    finally:
        os.close(file)


def _nameless_file(size: int) -> int:
    """A file in memory that no folder lists."""
    if hasattr(os, "memfd_create"):
        file = os.memfd_create("nexus")
    else:
        file, path = tempfile.mkstemp()
        os.unlink(path)
    os.ftruncate(file, size)
    return file


class Slots:
    """As many slots as are in use at the same time, all of one size, which only grows."""

    def __init__(self, *, shared: bool) -> None:
        self.shared = shared
        self.size = 0
        self.made = 0
        """Slots made so far."""
        self._free: deque[Slot] = deque()

    def take(self, size: int) -> Slot:
        """A free slot of at least `size` bytes, an old one where there is one."""
        self.size = max(self.size, size)
        while self._free:
            slot = self._free.pop()  # the one used last: part of it may be in a cache
            if slot.size >= self.size:
                return slot
        self.made += 1
        return Slot(self.size, shared=self.shared)

    def give_back(self, slot: Slot) -> None:
        """Nobody needs what is in the slot."""
        self._free.append(slot)

    def lend(self, slot: Slot) -> Bytes:
        """The memory of a slot that comes back by itself when the last view of it is gone."""
        array = slot.bytes()
        weakref.finalize(array, self.give_back, slot).atexit = False
        return array
