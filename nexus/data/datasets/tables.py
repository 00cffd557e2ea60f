"""Images inside tables: what parquet files and Hugging Face's arrow files have in common.

The image column is binary, or Hugging Face's struct of `bytes` and `path` (a row without bytes is read from
its path, relative to the table). Arrow files are mapped into memory: a read touches one image. Of parquet, a
read decodes the row group around the image; each process keeps the two latest, so small row groups (100
rows, Hugging Face's default for images) are what makes shuffled reading fast.
"""

import json
import os
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nexus.data.datasets.base import ImageDataset
from nexus.data.datasets.labels import Classes, Labels, encode_labels
from nexus.data.images import ImageLimits, file_fault, read_file
from nexus.errors import ImageError

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
        files: Sequence["TableFile"],
        column: str,
        description: str,
        limits: ImageLimits,
        labels: Labels | None,
        classes: Classes,
    ) -> None:
        super().__init__(description, limits, labels, classes)
        self.root = str(root.absolute())
        self.files = tuple(file.name for file in files)
        self.column = column
        self.groups = [np.asarray(first, dtype=np.int64) for first in (file.starts for file in files)]
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

    @abstractmethod
    def _table(self, path: str) -> Any:
        """The opened file."""

    @abstractmethod
    def _read_group(self, table: Any, group: int) -> Any:
        """The image column of a group of rows."""

    def _find(self, i: int) -> tuple[int, int]:
        file = int(np.searchsorted(self.first, i, side="right")) - 1
        return file, i - int(self.first[file])

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_open": {}, "_recent": {}}


@dataclass(frozen=True)
class TableFile:
    """One opened file: its path below the root, its split, the first row of each group, its labels."""

    name: str
    split: str | None
    starts: list[int]
    labels: list[Any]


def table_labels(
    files: Sequence[TableFile], chosen: Sequence[TableFile], names: Sequence[str]
) -> tuple[Labels | None, Classes]:
    """The labels of the chosen files, numbered over all: a label means the same in each split."""
    values = [value for file in files for value in file.labels]
    if not values or any(isinstance(value, (list, dict)) for value in values):
        return None, ()
    labels, classes = encode_labels([None if value is None else str(value) for value in values])
    if labels is None:
        return None, ()
    wanted = {file.name for file in chosen}
    mine = np.concatenate([np.full(len(file.labels), file.name in wanted) for file in files]).astype(bool)
    named = bool(names) and int(labels.max()) < len(names)
    return labels[mine], tuple(names) if named else classes
