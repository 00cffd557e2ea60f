"""The next item while the current one is worked on."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def one_ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items in the same order, each fetched by a thread while the one before is worked on.

    At most one is fetched early. Errors come where they would have come. A machine with one core fetches
    each when it is asked for: there is nothing to gain.
    """
    if (os.cpu_count() or 1) == 1:
        yield from items
        return
    with ThreadPoolExecutor(1, thread_name_prefix="nexus-ahead") as thread:
        coming = thread.submit(_next, items)
        while found := coming.result():
            coming = thread.submit(_next, items)
            yield found[0]


def _next(items: Iterator[T]) -> tuple[T] | None:
    """The next item in a tuple of its own, None after the last."""
    for item in items:
        return (item,)
    return None
