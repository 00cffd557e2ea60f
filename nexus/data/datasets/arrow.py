"""Images inside tables: parquet with image bytes, and what Hugging Face `datasets` saves to disk.

The image column is binary, or Hugging Face's struct of `bytes` and `path` (a row without bytes is read from
its path, relative to the table). Arrow files are mapped into memory: a read touches one image. Of parquet, a
read decodes the row group around the image; each process keeps the two latest, so small row groups (100
rows, Hugging Face's default for images) are what makes shuffled reading fast.
"""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nexus.data.datasets.address import Address
from nexus.data.datasets.base import ImageDataset
from nexus.data.datasets.folder import describe
from nexus.data.datasets.labels import Classes, Labels, encode_labels
from nexus.data.datasets.source import Source
from nexus.data.datasets.splits import canonical, in_order, match_split
from nexus.data.images import ImageLimits, file_fault, read_file
from nexus.errors import DataError, ImageError

_IMAGE = (
    "image",
    "img",
    "jpg",
    "jpeg",
    "png",
    "webp",
    "bytes",
    "image_bytes",
    "content",
    "data",
    "pixel_values",
)
_LABEL = ("label", "labels", "target", "y", "class_id", "cls", "fine_label")
_CLASS = ("class", "class_name", "category")
_KEPT = 2


@dataclass(frozen=True)
class Columns:
    """The columns of a table that matter: the image's, the label's, and the names of the classes."""

    image: str
    label: str | None
    names: tuple[str, ...]


def image_columns(schema: Any) -> Columns | None:
    """Which column of an arrow schema holds encoded images; None where no column can."""
    import pyarrow as pa

    def holds_bytes(kind: Any) -> bool:
        if pa.types.is_struct(kind):
            fields = {kind.field(i).name: kind.field(i).type for i in range(kind.num_fields)}
            return "bytes" in fields and holds_bytes(fields["bytes"])
        binary = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
        return any(test(kind) for test in binary)

    features = _features(schema)
    candidates = [field.name for field in schema if holds_bytes(field.type)]
    declared = [name for name in candidates if features.get(name, {}).get("_type") == "Image"]
    known = [name for wish in _IMAGE for name in candidates if name.lower() == wish]
    chosen = next(iter([*declared, *known, *candidates]), None)
    if chosen is None:
        return None
    lower = {field.name.lower(): field.name for field in schema}
    label = next((lower[name] for name in (*_LABEL, *_CLASS) if name in lower), None)
    names = (features.get(label) or {}).get("names") if label else None
    return Columns(chosen, label, tuple(map(str, names or ())))


def _features(schema: Any) -> dict[str, Any]:
    """Hugging Face's description of the columns, which it keeps in the schema's metadata."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {name: kind for name, kind in features.items() if isinstance(kind, dict)}
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}


class TableDataset(ImageDataset):
    """Rows of table files. Row `r` of file `f` is called `f/00000r`."""

    def __init__(
        self,
        root: Path,
        files: Sequence[str],
        starts: Sequence[Sequence[int]],
        column: str,
        description: str,
        limits: ImageLimits,
        labels: Labels | None,
        classes: Classes,
    ) -> None:
        """`starts[f]` holds the first row of each group of file `f`, and its number of rows."""
        super().__init__(description, limits, labels, classes)
        self.root = str(root.absolute())
        self.files = tuple(files)
        self.column = column
        self.groups = [np.asarray(first, dtype=np.int64) for first in starts]
        self.first = np.cumsum([0, *(group[-1] for group in self.groups)], dtype=np.int64)
        self._pid = os.getpid()
        self._open: dict[int, Any] = {}
        self._recent: dict[tuple[int, int], Any] = {}

    def __len__(self) -> int:
        return int(self.first[-1])

    def name(self, i: int) -> str:
        """The file and the row in it."""
        file, row = self._find(i)
        return f"{self.files[file]}/{row:06d}"

    def read(self, i: int) -> bytes:
        """The bytes in the row, or those of the file that it names; `ImageError`."""
        file, row = self._find(i)
        name = self.name(i)
        try:
            value = self._value(file, row)
        except OSError as error:
            raise ImageError(name, f"its table: {file_fault(error)}") from None
        except Exception as error:  # pyarrow's many errors for damaged files
            raise ImageError(name, f"its table is damaged: {error}") from error
        path = None
        if isinstance(value, dict):
            path = value.get("path")
            value = value.get("bytes")
        if value is None and path:
            return read_file(os.path.join(self.root, path), name)
        if value is None:
            raise ImageError(name, "the row has no image")
        return bytes(value)

    def _value(self, file: int, row: int) -> Any:
        group = int(np.searchsorted(self.groups[file], row, side="right")) - 1
        column = self._group(file, group)
        return column[row - int(self.groups[file][group])].as_py()

    def _group(self, file: int, group: int) -> Any:
        """The image column of a row group, opened by this process."""
        if self._pid != os.getpid():
            self._pid, self._open, self._recent = os.getpid(), {}, {}
        key = file, group
        if key not in self._recent:
            if file not in self._open:
                self._open[file] = self._table(os.path.join(self.root, self.files[file]))
            column = self._read_group(self._open[file], group)
            self._recent = dict([*list(self._recent.items())[1 - _KEPT :], (key, column)])
        return self._recent[key]

    def _table(self, path: str) -> Any:
        import pyarrow.parquet

        return pyarrow.parquet.ParquetFile(path)

    def _read_group(self, table: Any, group: int) -> Any:
        return table.read_row_group(group, columns=[self.column]).column(0)

    def _find(self, i: int) -> tuple[int, int]:
        file = int(np.searchsorted(self.first, i, side="right")) - 1
        return file, i - int(self.first[file])

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_open": {}, "_recent": {}}


class ArrowDataset(TableDataset):
    """Rows of arrow stream files, mapped into memory: there is one group per record batch."""

    def _table(self, path: str) -> Any:
        return _mapped(path)

    def _read_group(self, table: Any, group: int) -> Any:
        return table[group].column(self.column)


def _mapped(path: str) -> list[Any]:
    """The record batches of an arrow stream (or file), without reading them."""
    import pyarrow as pa

    source = pa.memory_map(path)
    try:
        return list(pa.ipc.open_stream(source))
    except pa.ArrowInvalid:
        source.seek(0)
        reader = pa.ipc.open_file(source)
        return [reader.get_batch(i) for i in range(reader.num_record_batches)]


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
    split_of = {name: _split_of(name) for name in files}
    splits = in_order(split for split in split_of.values() if split)

    def open_it(split: str | None, limits: ImageLimits) -> TableDataset:
        chosen = list(files)
        if split is not None:
            wanted = match_split(split, splits, text)
            chosen = [name for name in files if split_of[name] == wanted]
        return _open_parquet(text + (f", split {split}" if split else ""), root, chosen, limits)

    return Source(text, open_it, lambda: splits)


def _split_of(name: str) -> str | None:
    """`train` of `data/train-00000-of-00004.parquet` or `train/0.parquet`."""
    words = [re.split(r"[-_.]", part)[0] for part in reversed(name.split("/"))]
    return next((word for word in words if canonical(word) in ("train", "val", "test")), None)


def _open_parquet(what: str, root: Path, files: Sequence[str], limits: ImageLimits) -> TableDataset:
    import pyarrow as pa
    import pyarrow.parquet

    columns: Columns | None = None
    starts: list[list[int]] = []
    values: list[Any] = []
    for name in files:
        try:
            table = pyarrow.parquet.ParquetFile(root / name)
            found = image_columns(table.schema_arrow)
            columns = columns or found
            if found is None or columns is None or found.image != columns.image:
                raise DataError(
                    f"{root / name} has the columns {', '.join(table.schema_arrow.names)}; none "
                    "of them holds image bytes"
                    + (f" like {columns.image!r} in {files[0]}" if columns else "")
                )
            rows = [table.metadata.row_group(g).num_rows for g in range(table.num_row_groups)]
            starts.append([0, *np.cumsum(rows).tolist()] if rows else [0])
            values += table.read(columns=[columns.label]).column(0).to_pylist() if columns.label else []
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{root / name} is not a readable parquet file: {error}") from None
    assert columns is not None, "there is at least one file"
    labels, classes = _table_labels(values, columns.names)
    description = describe(f"parquet {what}", sum(s[-1] for s in starts), labels)
    return TableDataset(root, files, starts, columns.image, description, limits, labels, classes)


def _table_labels(values: Sequence[Any], names: Sequence[str]) -> tuple[Labels | None, Classes]:
    if not values or any(isinstance(value, (list, dict)) for value in values):
        return None, ()
    labels, classes = encode_labels([None if value is None else str(value) for value in values])
    if labels is not None and names and int(labels.max()) < len(names):
        return labels, tuple(names)
    return labels, classes


def is_saved(path: Path) -> bool:
    """Whether a folder was written by `Dataset.save_to_disk` or `DatasetDict.save_to_disk`."""
    return (path / "dataset_dict.json").is_file() or (
        (path / "state.json").is_file() and (path / "dataset_info.json").is_file()
    )


def saved_source(address: Address) -> Source:
    """A folder of `save_to_disk`; the parts of a `DatasetDict` are splits."""
    address.only()
    root = address.path
    try:
        listed = json.loads((root / "dataset_dict.json").read_text())["splits"]
    except FileNotFoundError:
        listed = []
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"cannot read {root / 'dataset_dict.json'}: {error}") from None
    splits = in_order(listed)

    def open_it(split: str | None, limits: ImageLimits) -> ArrowDataset:
        chosen = [match_split(split, splits, str(root))] if split is not None else list(splits) or [""]
        what = f"Hugging Face data set {root}" + (f", split {split}" if split else "")
        return _open_saved(what, root, chosen, limits)

    return Source(address.text, open_it, lambda: splits)


def _open_saved(what: str, root: Path, folders: Sequence[str], limits: ImageLimits) -> ArrowDataset:
    import pyarrow as pa

    files: list[str] = []
    starts: list[list[int]] = []
    values: list[Any] = []
    columns: Columns | None = None
    for folder in folders:
        for name in _saved_files(root / folder):
            path = root / folder / name
            try:
                batches = _mapped(str(path))
            except (pa.ArrowException, OSError) as error:
                raise DataError(f"{path} is not a readable arrow file: {error}") from None
            if not batches:
                continue
            columns = columns or image_columns(batches[0].schema)
            if columns is None:
                raise DataError(
                    f"{path} has the columns {', '.join(batches[0].schema.names)}; "
                    "none of them holds image bytes"
                )
            files.append(f"{folder}/{name}" if folder else name)
            starts.append([0, *np.cumsum([batch.num_rows for batch in batches]).tolist()])
            if columns.label:
                values += [v for batch in batches for v in batch.column(columns.label).to_pylist()]
    if columns is None:
        raise DataError(f"{what} has no rows")
    labels, classes = _table_labels(values, columns.names)
    description = describe(what, sum(s[-1] for s in starts), labels)
    return ArrowDataset(root, files, starts, columns.image, description, limits, labels, classes)


def _saved_files(folder: Path) -> list[str]:
    try:
        state = json.loads((folder / "state.json").read_text())
        if state.get("_indices_data_files") or state.get("_indices_files"):
            raise DataError(
                f"{folder} is a selection of rows saved by an old version of `datasets`; "
                "save it again after `flatten_indices()`"
            )
        return [entry["filename"] for entry in state["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"cannot read {folder / 'state.json'}: {error}") from None
