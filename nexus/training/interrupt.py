"""SIGTERM, SIGINT, SIGHUP and SIGUSR1 ask the loop to save and stop; a second Ctrl-C stops at once."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_NAMES = ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1")
_SIGNALS = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
_SECOND: dict[int, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}


class Interrupt:
    """Whether, and by which signal, the run was asked to stop."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    def catch(self, number: int, frame: FrameType | None) -> None:
        """Remember the first signal. From now on SIGINT and SIGTERM stop at once; the others do nothing,
        for a closing terminal or a scheduler sends several in a row."""
        self.signal = signal.Signals(number)
        for other in _SIGNALS:
            if signal.getsignal(other) == self.catch:
                signal.signal(other, _SECOND.get(other, signal.SIG_IGN))


@contextmanager
def graceful_stop() -> Iterator[Interrupt]:
    """Within the block the first signal only sets a flag.

    A signal that is ignored stays ignored (`nohup`). Outside the main thread nothing is changed.
    """
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    caught = [number for number, handler in before.items() if handler not in (signal.SIG_IGN, None)]
    for number in caught:
        signal.signal(number, interrupt.catch)
    try:
        yield interrupt
    finally:
        for number in caught:
            signal.signal(number, before[number])
