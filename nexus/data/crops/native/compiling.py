"""How the loops of this package become machine code: once on each machine, and kept in the cache."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba

from nexus.data.datasets.cache import cache_folder, digest

_OPTIONS: dict[str, Any] = {
    "nogil": True,
    "error_model": "numpy",
    "fastmath": {"contract", "reassoc", "nnan", "ninf", "nsz"},
}
"""Without the interpreter's lock; values are pixels, never NaN or infinite, and sums may be regrouped."""


def part(function: Callable) -> Any:
    """A decorator for what only kernels call: it is compiled into them."""
    return numba.njit(forceinline=True, **_OPTIONS)(inspect.unwrap(function))


def exact_part(function: Callable) -> Any:
    """A `part` whose numbers are rounded after each step, in the order in which it is written."""
    return numba.njit(forceinline=True, **{**_OPTIONS, "fastmath": False})(inspect.unwrap(function))


def kernel(signature: Any) -> Callable[[Callable], Any]:
    """A decorator that compiles a function for one `signature` of numba's, as soon as it is defined.

    The code is kept in `code_folder()`; where that cannot be written to, it is compiled again in each run.
    """

    def compiled(function: Callable) -> Any:
        plain = inspect.unwrap(function)  # without the checker of types that the tests wrap around functions
        numbas: Any = numba.config
        before, folder = numbas.CACHE_DIR, str(code_folder())
        numbas.CACHE_DIR = folder
        try:
            return numba.njit(signature, cache=True, **_OPTIONS)(plain)
        except (RuntimeError, OSError):  # no folder for the code
            return numba.njit(signature, **_OPTIONS)(plain)
        finally:
            numbas.CACHE_DIR = before

    return compiled


def code_folder() -> Path:
    """Where the code is kept: below numba's own `$NUMBA_CACHE_DIR`, else below nexus' cache.

    Another folder after any of these files has changed, which numba does not see.
    """
    sources = sorted(Path(__file__).parent.glob("*.py"))
    numbas: Any = numba.config
    place = Path(numbas.CACHE_DIR) if numbas.CACHE_DIR else cache_folder() / "compiled"
    return place / digest(*(source.read_text(encoding="utf-8") for source in sources))
