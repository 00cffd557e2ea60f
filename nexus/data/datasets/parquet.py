"""Parquet files with image bytes, one or a folder of them."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nexus.data.datasets.address import Address
from nexus.data.datasets.folder import describe
from nexus.data.datasets.source import Source
from nexus.data.datasets.splits import canonical, in_order, match_split
from nexus.data.datasets.tables import Columns, TableDataset, TableFile, image_columns, table_labels
from nexus.data.images import ImageLimits
from nexus.errors import DataError


class ParquetDataset(TableDataset):
    """Rows of parquet files."""

    def _table(self, path: str) -> Any:
        import pyarrow.parquet

        return pyarrow.parquet.ParquetFile(path)

    def _read_group(self, table: Any, group: int) -> Any:
        return table.read_row_group(group, columns=[self.column]).column(0)


def parquet_with_images(path: Path) -> bool:
    """Whether a parquet file has a column of encoded images; False for anything unreadable."""
    try:
        with open(path, "rb") as file:
            if file.read(4) != b"PAR1":
                return False
    except OSError:
        return False
    import pyarrow as pa
    import pyarrow.parquet

    try:
        return image_columns(pyarrow.parquet.read_schema(path)) is not None
    except (pa.ArrowException, OSError):
        return False


def parquet_source(path: Path) -> Source:
    """One parquet file with image bytes."""
    return _parquet(str(path), path.parent, [path.name])


def parquet_folder_source(address: Address) -> Source:
    """All parquet files below a folder; `train-00000-of-00002.parquet` or `train/` say the split."""
    address.only()
    root = address.path
    files = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.parquet"))
    return _parquet(str(root), root, files)


def _parquet(text: str, root: Path, files: Sequence[str]) -> Source:
    splits = in_order(split for split in map(_split_of, files) if split)

    def open_it(split: str | None, limits: ImageLimits) -> ParquetDataset:
        wanted = None if split is None else match_split(split, splits, text)
        return _open(text, root, files, wanted, limits)

    return Source(text, open_it, lambda: splits)


def _split_of(name: str) -> str | None:
    """`train` of `data/train-00000-of-00004.parquet` or `train/0.parquet`."""
    words = [re.split(r"[-_.]", part)[0] for part in reversed(name.split("/"))]
    return next((word for word in words if canonical(word) in ("train", "val", "test")), None)


def _open(
    text: str, root: Path, names: Sequence[str], split: str | None, limits: ImageLimits
) -> ParquetDataset:
    columns: Columns | None = None
    files: list[TableFile] = []
    for name in names:
        table = _table(root / name)
        found = image_columns(table.schema_arrow)
        columns = columns or found
        if table.metadata.num_rows == 0:
            continue
        if found is None or columns is None or found.image != columns.image:
            raise DataError(
                f"{root / name} has the columns {', '.join(table.schema_arrow.names)}; none of them holds "
                "image bytes" + (f" like {columns.image!r} in {names[0]}" if columns else "")
            )
        rows = [table.metadata.row_group(group).num_rows for group in range(table.num_row_groups)]
        values = table.read(columns=[columns.label]).column(0).to_pylist() if columns.label else []
        files.append(TableFile(name, _split_of(name), [0, *np.cumsum(rows).tolist()], values))
    chosen = [file for file in files if split is None or file.split == split]
    if columns is None or not chosen:
        raise DataError(f"parquet {text} has no rows")
    labels, classes = table_labels(files, chosen, columns.names)
    what = f"parquet {text}" + (f", split {split}" if split else "")
    description = describe(what, sum(file.starts[-1] for file in chosen), labels)
    return ParquetDataset(root, chosen, columns.image, description, limits, labels, classes)


def _table(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a readable parquet file: {error}") from None
