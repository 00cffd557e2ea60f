"""How fast a training is, against how fast the device can multiply matrices."""

import functools
import time

import torch

SECONDS = 0.3
"""Time spent on measuring the device."""


@functools.cache
def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations per second of large square matrix products, the best of several tries.

    Measured once in a process, in well under a second, with the threads that torch uses at that time.
    """
    size = 8192 if device.type == "cuda" else 2048
    a, b = torch.randn(2, size, size, device=device).to(dtype).unbind(0)
    _wait_for(device)
    best = float("inf")
    out = a @ b  # the first one also allocates and chooses kernels
    began = time.perf_counter()
    while time.perf_counter() - began < SECONDS or best == float("inf"):
        _wait_for(device)
        start = time.perf_counter()
        torch.matmul(a, b, out=out)
        _wait_for(device)
        best = min(best, time.perf_counter() - start)
    return 2.0 * size**3 / best


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
