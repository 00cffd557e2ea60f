"""Libraries that only some sources need."""

import importlib
from types import ModuleType

from nexus.errors import DataError


def optional(module: str, extra: str, what: str) -> ModuleType:
    """Import `module`, or a `DataError` that says what needs it and how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = error.name or module
        raise DataError(
            f'{what} needs {package}, which is not installed: pip install "nexus[{extra}]"'
        ) from None
