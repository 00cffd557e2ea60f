"""Open files that follow their owner into other processes: closed on the way, opened again on arrival."""

import io
import os
from collections import OrderedDict
from typing import Any

_MAX_OPEN = 64


class _Descriptor:
    """A file descriptor that closes with its last user, so dropping it in one thread is safe in another."""

    def __init__(self, path: str) -> None:
        self.number = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)


class Handles:
    """Reads pieces of files by path. At most 64 stay open per process; pickles without them."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._open: OrderedDict[str, _Descriptor] = OrderedDict()

    def read(self, path: str, offset: int, size: int) -> bytes:
        """`size` bytes from `offset` on, fewer at the end of the file. `OSError` as `open` raises it."""
        handle = self._handle(path)
        parts = []
        while size > 0:
            part = os.pread(handle.number, min(size, 1 << 30), offset)
            if not part:
                break
            parts.append(part)
            offset, size = offset + len(part), size - len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _handle(self, path: str) -> _Descriptor:
        if self._pid != os.getpid():
            self._pid, self._open = os.getpid(), OrderedDict()
        handle = self._open.pop(path, None) or _Descriptor(path)
        self._open[path] = handle
        while len(self._open) > _MAX_OPEN:
            try:
                self._open.popitem(last=False)
            except KeyError:  # another thread was faster
                break
        return handle

    def __reduce__(self) -> tuple[type["Handles"], tuple[()]]:
        return Handles, ()


class Part(io.RawIOBase):
    """A piece of a file as a read-only stream; wrap it in `io.BufferedReader`."""

    def __init__(self, handles: Handles, path: str, start: int, size: int) -> None:
        self.handles, self.path, self.start, self.size = handles, path, start, size
        self.at = 0

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Move within the piece."""
        self.at = max(0, offset + (0, self.at, self.size)[whence])
        return self.at

    def tell(self) -> int:
        """Bytes from the beginning of the piece."""
        return self.at

    def readinto(self, buffer: Any, /) -> int:
        """Fill `buffer` as far as the piece reaches."""
        count = max(0, min(len(buffer), self.size - self.at))
        data = self.handles.read(self.path, self.start + self.at, count)
        buffer[: len(data)] = data
        self.at += len(data)
        return len(data)
