"""A function of many images, in several threads, results in order. Decoders let go of the interpreter."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

Progress = Callable[[int, int], None]
"""Called with (images done, images in all)."""


def in_order(
    function: Callable[[int], T], indices: Sequence[int], workers: int = 0, progress: Progress | None = None
) -> Iterator[T]:
    """`function(index)` for each index, at most `2 * workers` ahead; 0 workers: one after the other."""
    total = len(indices)
    for done, value in enumerate(_values(function, indices, workers), 1):
        yield value
        if progress is not None:
            progress(done, total)


def _values(function: Callable[[int], T], indices: Sequence[int], workers: int) -> Iterator[T]:
    if not workers:
        yield from map(function, indices)
        return
    waiting: deque[Future[T]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for index in indices:
                waiting.append(pool.submit(function, index))
                if len(waiting) >= 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def all_cores() -> int:
    """Threads for work that waits for nothing else."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
