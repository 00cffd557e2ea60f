"""Memory that is freed and asked for again at every step."""

import ctypes

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Let this process keep freed memory rather than give it back to the system; false where it cannot.

    glibc maps every large tensor anew and returns it when it is freed, so each step pays for the same pages
    again: a tenth to a fifth of a training step on a CPU (docs/performance.md). The price is that the process
    stays as large as it once was. Only glibc knows `mallopt`; elsewhere nothing happens.
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
        return bool(libc.mallopt(_MMAP_MAX, 0) and libc.mallopt(_TRIM_THRESHOLD, -1))
    except (OSError, AttributeError):
        return False
