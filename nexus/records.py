"""Results as JSON that every parser reads.

JSON has no NaN and no infinity; Python writes them all the same, and others then refuse the file. What is no
number is `null` here.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nexus.checkpoint import write_atomic


def strict(value: Any) -> Any:
    """The same without NaN and infinities, which become None, however deep they lie; tuples become lists."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: strict(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [strict(part) for part in value]
    return value


def line_of(record: Mapping[str, Any]) -> str:
    """A record as one line, with its end."""
    return json.dumps(strict(record), allow_nan=False) + "\n"


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record as a file of several lines, whole or not at all."""
    write_atomic(path, json.dumps(strict(record), indent=1, allow_nan=False) + "\n")
