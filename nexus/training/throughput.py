"""How fast a training is, and against how fast the device can multiply matrices."""

import functools
import sys
import time

import torch

from nexus.distributed import world_size
from nexus.training.config import TrainConfig
from nexus.training.flops import step_flops
from nexus.training.step import HALF_TYPES

SECONDS = 0.3
"""Time spent on measuring the device."""


class Throughput:
    """Rates, share of time spent waiting for data, and peak memory between two readings."""

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        self.images, self.flops, self.device = config.schedule.batch_size, step_flops(config), device
        dtype = HALF_TYPES.get(config.compute.precision, torch.float32)
        self.matmul_rate = matmul_rate(device, dtype, torch.get_num_threads())
        self._waiting, self._steps = 0.0, 0
        self._since = self._mark = time.monotonic()

    def wait(self) -> None:
        """From now on the step waits for data."""
        self._mark = time.monotonic()

    def work(self) -> None:
        """The data have come."""
        self._waiting += time.monotonic() - self._mark
        self._steps += 1

    def read(self) -> dict[str, float]:
        """Since the last reading: `images_per_second`; `data_wait`, the share of time spent waiting (0..1);
        `flops_per_second`; `mfu`, its share of the matmul rate of all devices; and `peak_memory` of this
        process so far, in bytes.
        """
        now = time.monotonic()
        elapsed = max(now - self._since, 1e-9)
        rate = self._steps * self.flops / elapsed
        values = {
            "images_per_second": self._steps * self.images / elapsed,
            "data_wait": self._waiting / elapsed,
            "flops_per_second": rate,
            "mfu": rate / (self.matmul_rate * world_size()),
            "peak_memory": float(peak_memory(self.device)),
        }
        self._waiting, self._steps, self._since = 0.0, 0, now
        return values


CLOCK_KEYS = frozenset({"images_per_second", "data_wait", "flops_per_second", "mfu", "peak_memory"})
"""Keys of a record that depend on the clock and the machine; everything else repeats exactly."""


@functools.cache
def matmul_rate(device: torch.device, dtype: torch.dtype, threads: int) -> float:
    """Floating-point operations per second of large square matrix products, the best of many.

    Measured once in a process for each number of threads, in well under a second.
    """
    best, began = 0.0, time.perf_counter()
    size, largest = 256, 8192 if device.type == "cuda" else 2048
    while (elapsed := time.perf_counter() - began) < SECONDS:
        a, b = (torch.ones(size, size, dtype=dtype, device=device) for _ in range(2))
        out = torch.empty_like(a)
        _wait_for(device)
        start = time.perf_counter()
        torch.matmul(a, b, out=out)
        _wait_for(device)
        best = max(best, 2.0 * size**3 / (time.perf_counter() - start))
        # Larger ones run faster, but where small ones are slow (float16 on a CPU) they would take minutes.
        if size < largest and 9 * (time.perf_counter() - start) < SECONDS - elapsed:
            size *= 2
    return best


def peak_memory(device: torch.device) -> int:
    """Most bytes held so far: on the GPU, or resident by this process where there is none; 0 if not known."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource  # Unix only
    except ImportError:
        return 0
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else 1024 * largest


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
