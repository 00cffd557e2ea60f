"""Columns of a list that say more than label and split, such as `group`, by the name of the image."""

import csv
import io
from pathlib import Path

from nexus.data.datasets.pack import MANIFEST
from nexus.errors import DataError

_PATHS = ("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "img")


def list_behind(spec: object) -> Path | None:
    """The list that describes the images of `spec`: itself, or a pack's `manifest.csv`; None without one."""
    if not isinstance(spec, str | Path):
        return None
    path = Path(spec).expanduser()
    if path.is_dir():
        path /= MANIFEST
    return path if path.is_file() and path.suffix.lower() in (".csv", ".tsv", ".parquet") else None


def read_columns(path: Path) -> dict[str, list[str]]:
    """Every column of a CSV, TSV or parquet list as text, by its name in lower case; `path` is always there.

    Rows without a path are left out. Raises `DataError` for a file that is no such list.
    """
    try:
        table = _parquet(path) if path.suffix.lower() == ".parquet" else _csv(path)
    except OSError as error:
        raise DataError(f"cannot read the list {path}: {error.strerror or error}") from None
    own = next((name for name in _PATHS if name in table), None)
    if own is None:
        raise DataError(f"{path} has the columns {', '.join(table)}; name the one with the paths `path`")
    kept = [row for row, name in enumerate(table[own]) if name]
    table["path"] = table[own]
    return {name: [values[row] for row in kept] for name, values in table.items()}


def _csv(path: Path) -> dict[str, list[str]]:
    text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    try:
        rows = [row for row in csv.reader(io.StringIO(text), delimiter=delimiter) if any(row)]
    except csv.Error as error:
        raise DataError(f"{path} is not a readable CSV file: {error}") from None
    header = [name.strip().lower() for name in rows[0]] if rows else []
    return {
        name: [row[at].strip() if at < len(row) else "" for row in rows[1:]] for at, name in enumerate(header)
    }


def _parquet(path: Path) -> dict[str, list[str]]:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        plain = [
            field.name
            for field in file.schema_arrow
            if not pyarrow.types.is_nested(field.type) and not pyarrow.types.is_binary(field.type)
        ]
        table = file.read(columns=plain)
    except pyarrow.ArrowException as error:
        raise DataError(f"{path} is not a readable parquet file: {error}") from None
    return {
        name.lower(): ["" if value is None else str(value) for value in table[name].to_pylist()]
        for name in plain
    }
