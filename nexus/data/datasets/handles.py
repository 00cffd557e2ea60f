"""Open files that follow their owner into other processes: closed on the way, opened again on arrival."""

import os
from collections import OrderedDict

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

    def __getstate__(self) -> dict[str, object]:
        return {}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__init__()  # type: ignore[misc]
