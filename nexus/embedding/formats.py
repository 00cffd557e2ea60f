"""From columns on disk to the file that was asked for, in constant memory.

| ending         | what there is                                                                     |
|----------------|-----------------------------------------------------------------------------------|
| `.parquet`     | `path`, `label` where there are labels, then a list a row for each column         |
| `.npy`         | the first column as an array; beside it the others, such as `x.mean_patch.npy`,   |
|                | `x.label.npy`, and the paths, `x.paths.txt`                                       |
| `.safetensors` | a tensor for each column, `label`; the paths as JSON in the metadata              |

Each function leaves complete files in the folder of the table and says which of them gets which name,
the main file last. Doing it twice gives the same bytes.
"""

import csv
import json
import shutil
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from nexus.embedding.partial import PartialTable
from nexus.errors import RunError

Moves = list[tuple[str | None, str]]

GRID, IMAGE, LABEL = "patches_grid", "image_size", "label"
"""Whole numbers beside the features: (rows, cols) of the patches, (height, width) of the image, the class."""

NPY_HEADER = 128
_BLOCK_BYTES = 1 << 25
_SAFETENSORS_LIMIT = 100_000_000
_SAFETENSORS_TYPES = {"<f4": "F32", "<f2": "F16", "<i8": "I64", "<i4": "I32"}


def kept_columns(table: PartialTable) -> list[str]:
    """The columns for the file: all, but the labels only where there is one; whole numbers first."""
    labelled = LABEL in table.columns and any((rows >= 0).any() for rows in _blocks(table, LABEL, 1 << 20))
    numbers = [LABEL] if labelled else []
    numbers += [name for name in (IMAGE, GRID) if name in table.columns]
    return numbers + [name for name in table.columns if name not in (LABEL, IMAGE, GRID)]


def unreadable_list(table: PartialTable, name: str) -> Moves:
    """A CSV of the images that could not be used, or the removal of an old one where all could."""
    if not table.unreadable:
        return [(None, name)]
    with (table.folder / "unreadable").open(
        "w", encoding="utf-8", errors="surrogateescape", newline=""
    ) as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("name", "reason"))
        rows.writerows((fault.name, fault.reason) for fault in table.faults())
    return [("unreadable", name)]


def to_parquet(table: PartialTable, out: Path, metadata: dict[str, str]) -> Moves:
    """One row group for each block of rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names, columns = table.names(), kept_columns(table)
    readers = {column: _Reader(table, column) for column in columns}
    shapes = {f"{name}_shape": json.dumps(table.columns[name][1]) for name in columns}
    writer: Any = None
    for count in _row_blocks(table, columns):
        paths = [name.encode("utf-8", "backslashreplace").decode() for name in islice(names, count)]
        arrays = {"path": pa.array(paths, pa.string())}
        grids = readers[GRID].peek(count) if GRID in readers else None
        for column in columns:
            arrays[column] = readers[column].arrow(count, grids)
        block = pa.table(arrays)
        if writer is None:
            block_schema = block.schema.with_metadata({**metadata, **shapes})
            target = table.folder / "whole"
            writer = pq.ParquetWriter(target, block_schema, compression="none", use_dictionary=False)
        writer.write_table(block.replace_schema_metadata(writer.schema.metadata))
    writer.close()
    return [("whole", out.name)]


def to_npy(table: PartialTable, out: Path, metadata: dict[str, str]) -> Moves:
    """The columns as they lie there: their headers are filled in, nothing is copied."""
    columns = kept_columns(table)
    for column in columns:
        dtype, shape = table.columns[column]
        assert -1 not in shape, "rows of several shapes do not come here"
        fields = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {(table.rows, *shape)}, }}"
        header = b"\x93NUMPY\x01\x00" + (NPY_HEADER - 10).to_bytes(2, "little")
        header += fields.encode().ljust(NPY_HEADER - 11) + b"\n"
        assert len(header) == NPY_HEADER
        with table.raw(column).open("rb+") as file:
            file.write(header)
    # A line is a row, so a line break inside a name must not be one.
    with (table.folder / "paths").open("w", encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        file.writelines(name.replace("\n", "\\n") + "\n" for name in table.names())
    main = next(name for name in columns if name not in (LABEL, IMAGE, GRID))
    beside: Moves = [
        (f"{name}.raw", out.with_name(f"{out.stem}.{name}.npy").name) for name in columns if name != main
    ]
    return [*beside, ("paths", f"{out.stem}.paths.txt"), (f"{main}.raw", out.name)]


def to_safetensors(table: PartialTable, out: Path, metadata: dict[str, str]) -> Moves:
    """The header, which needs the counts, then the columns."""
    columns = kept_columns(table)
    tree: dict[str, Any] = {"__metadata__": {"paths": json.dumps(list(table.names())), **metadata}}
    start = 0
    for column in columns:
        dtype, shape = table.columns[column]
        assert -1 not in shape, "rows of several shapes do not come here"
        end = start + table.raw(column).stat().st_size
        tree[column] = {
            "dtype": _SAFETENSORS_TYPES[dtype],
            "shape": [table.rows, *shape],
            "data_offsets": [start, end],
        }
        start = end
    header = json.dumps(tree).encode()
    header += b" " * (-len(header) % 8)
    if len(header) > _SAFETENSORS_LIMIT:
        raise RunError(f"{table.rows:,} paths do not fit into a safetensors header; use .parquet")
    with (table.folder / "whole").open("wb") as target:
        target.write(len(header).to_bytes(8, "little") + header)
        for column in columns:
            with table.raw(column).open("rb") as part:
                shutil.copyfileobj(part, target, 1 << 22)
    return [("whole", out.name)]


FORMATS: dict[str, Callable[[PartialTable, Path, dict[str, str]], Moves]] = {
    ".parquet": to_parquet,
    ".npy": to_npy,
    ".safetensors": to_safetensors,
}


class _Reader:
    """The rows of a column, in pieces, from first to last."""

    def __init__(self, table: PartialTable, column: str) -> None:
        dtype, self.shape = table.columns[column]
        self.column, self.dtype = column, np.dtype(dtype)
        self.path, self.offset = table.raw(column), table.reserve

    def peek(self, count: int) -> np.ndarray:
        """The next rows, without moving on."""
        return self._numbers(count * _size(self.shape)).reshape(count, *self.shape)

    def arrow(self, count: int, grids: np.ndarray | None) -> Any:
        """The next rows as an Arrow array; `grids` says how many tokens each has where they differ."""
        import pyarrow as pa

        if self.shape[:1] == [-1]:
            assert grids is not None
            ends = np.cumsum(grids.prod(axis=1, dtype=np.int64)) * _size(self.shape[1:])
            values = self._numbers(int(ends[-1]))
            self.offset += values.nbytes
            return pa.LargeListArray.from_arrays(pa.array(np.concatenate(([0], ends))), pa.array(values))
        rows = self.peek(count)
        self.offset += rows.nbytes
        if self.column == LABEL:
            return pa.array(rows, mask=rows < 0)
        return pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), _size(self.shape))

    def _numbers(self, count: int) -> np.ndarray:
        return np.fromfile(self.path, self.dtype, count, offset=self.offset)


def _blocks(table: PartialTable, column: str, rows: int) -> Iterator[np.ndarray]:
    """A column of fixed shape, at most `rows` rows at a time."""
    reader = _Reader(table, column)
    for start in range(0, table.rows, rows):
        block = reader.peek(min(rows, table.rows - start))
        reader.offset += block.nbytes
        yield block


def _row_blocks(table: PartialTable, columns: list[str]) -> Iterator[int]:
    """How many rows to take at a time, so that a block has about `_BLOCK_BYTES`."""
    most_patches = 1
    if any(table.columns[name][1][:1] == [-1] for name in columns):
        most_patches = max(int(block.prod(axis=1).max()) for block in _blocks(table, GRID, 1 << 16))
    row_bytes = sum(
        np.dtype(dtype).itemsize * _size([most_patches if side == -1 else side for side in shape])
        for dtype, shape in (table.columns[name] for name in columns)
    )
    step = max(1, _BLOCK_BYTES // row_bytes)
    for start in range(0, table.rows, step):
        yield min(step, table.rows - start)


def _size(shape: list[int]) -> int:
    return int(np.prod(shape, dtype=np.int64))
