"""How the losses compute: in full precision, with a bounded workspace."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

import torch

WORKSPACE = 2**24
"""Elements of the largest temporary table (64 MiB in float32)."""
TABLE = 2**26
"""Elements of a table of logits in the dtype of the networks (128 MiB in half precision)."""
CACHE = 2**19
"""Elements of the tables that a CPU works on at a time (2 MiB in float32)."""


def full_dtype(*dtypes: torch.dtype) -> torch.dtype:
    """float64 if any of `dtypes` is, else float32: half precision is always raised."""
    return torch.float64 if torch.float64 in dtypes else torch.float32


def no_autocast(device: torch.device) -> AbstractContextManager[None]:
    """A region in which operations on `device` keep the dtype of their arguments."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def cache_size(device: torch.device) -> int:
    """Elements of a table that is worth keeping small: what a processor's cache holds; no limit elsewhere."""
    return CACHE if device.type == "cpu" else WORKSPACE


def row_slices(rows: int, columns: int, most: int | None = None) -> Iterator[slice]:
    """Consecutive slices of `range(rows)`, each a table of at most `most` (`WORKSPACE`) elements."""
    step = max(1, (most or WORKSPACE) // max(1, columns))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def table_slices(rows: int, columns: int) -> Iterator[slice]:
    """Consecutive slices of `range(rows)`, each a table of at most `TABLE` elements."""
    return row_slices(rows, columns, TABLE)
