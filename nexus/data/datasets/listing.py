"""Lists of image files: text, CSV / TSV and parquet, with or without labels and splits."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nexus.data.datasets.address import Address, is_url
from nexus.data.datasets.folder import FileDataset, describe
from nexus.data.datasets.labels import encode_labels
from nexus.data.datasets.names import is_image_name
from nexus.data.datasets.parquet import parquet_source, parquet_with_images
from nexus.data.datasets.remote import RemoteError, fetch
from nexus.data.datasets.source import Source
from nexus.data.datasets.splits import in_order, match_split
from nexus.data.images import ImageLimits, Stream, open_file, read_file
from nexus.errors import DataError, ImageError

_PATH = (
    *("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "img"),
    *("url", "image_url", "uri"),
)
_LABEL = ("label", "target", "y", "class_id")
_CLASS = ("class", "class_name", "category")
_SPLIT = ("split", "subset")

LIST_ENDINGS = (".csv", ".tsv", ".txt", ".lst", ".list", ".parquet")


@dataclass
class Table:
    """The columns of a list that mean something here, as text; None for those it does not have."""

    paths: list[str]
    labels: list[str | None] | None = None
    classes: list[str | None] | None = None
    splits: list[str | None] | None = None

    def rows(self, chosen: Sequence[int]) -> "Table":
        """The table of these rows."""
        return Table(
            [self.paths[i] for i in chosen],
            None if self.labels is None else [self.labels[i] for i in chosen],
            None if self.classes is None else [self.classes[i] for i in chosen],
            None if self.splits is None else [self.splits[i] for i in chosen],
        )


def read_table(path: Path) -> Table:
    """The list in a file. Text: one path per line, `#` begins a comment, a tab separates a label.

    CSV, TSV, parquet: columns path (or file, filename, image, ...), optionally label, class and split. A CSV
    whose first cell is an image's name has no header: path, then label.
    """
    try:
        if path.suffix.lower() == ".parquet" or path.read_bytes()[:4] == b"PAR1":
            return _parquet(path)
        text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise DataError(f"cannot read the list {path}: {error.strerror or error}") from None
    delimiter = {".csv": ",", ".tsv": "\t"}.get(path.suffix.lower())
    return _lines(text) if delimiter is None else _csv(path, text, delimiter)


class ListDataset(FileDataset):
    """Files that a list names: paths relative to the list's folder, absolute ones, and URLs."""

    def read(self, i: int) -> bytes:
        """The content of the file, fetched into the cache where it is a URL; `ImageError`."""
        name = self.name(i)
        return read_file(self._local(name), name) if is_url(name) else super().read(i)

    def file(self, i: int) -> str | None:
        """The path; None of a URL."""
        return None if is_url(self.name(i)) else super().file(i)

    def stream(self, i: int) -> Stream:
        """The open file, a fetched one in the cache."""
        name = self.name(i)
        return open_file(self._local(name), name) if is_url(name) else super().stream(i)

    def _local(self, url: str) -> Path:
        try:
            return fetch(url)
        except (RemoteError, DataError) as error:
            raise ImageError(url, str(error)) from None


def list_source(address: Address) -> Source:
    """A list of images; a parquet file with image bytes is a table of them."""
    address.only()
    path = address.path
    if parquet_with_images(path):
        return parquet_source(path)
    return Source(
        address.text, lambda split, limits: open_list(path, split, limits), lambda: list_splits(path)
    )


def list_splits(path: Path) -> tuple[str, ...]:
    """The values of the list's `split` column."""
    return in_order(value for value in read_table(path).splits or () if value)


def open_list(path: Path, split: str | None, limits: ImageLimits) -> ListDataset:
    """The images that a list names, relative to its own folder. Rows without a file fail when read."""
    table = read_table(path)
    everything = table
    if split is not None:
        known = in_order(value for value in table.splits or () if value)
        split = match_split(split, known, f"list {path}")
        table = table.rows([i for i, value in enumerate(table.splits or ()) if value == split])
    if not table.paths:
        raise DataError(f"the list {path} is empty; write one image path per line")
    # Numbered over all splits, so that a label means the same in each.
    labels, classes = encode_labels(everything.labels or everything.classes or [], everything.classes)
    first = {name: i for i, name in reversed(list(enumerate(table.paths)))}
    kept = sorted(first.values())
    names = [table.paths[i] for i in kept]
    if labels is not None:
        rows = list(range(len(everything.paths)))
        if split is not None:
            rows = [i for i, value in enumerate(everything.splits or ()) if value == split]
        labels = labels[[rows[i] for i in kept]]
    what = describe(f"list {path}" + (f", split {split}" if split else ""), len(names), labels)
    if len(names) < len(table.paths):
        what += f", {len(table.paths) - len(names):,} repeated rows dropped"
    return ListDataset(path.absolute().parent, names, what, limits, labels, classes)


def _lines(text: str) -> Table:
    rows = [line.strip().partition("\t") for line in text.splitlines()]
    rows = [row for row in rows if row[0] and not row[0].startswith("#")]
    labels = [label.strip() or None for _, _, label in rows]
    return Table([path.strip() for path, _, _ in rows], labels if any(labels) else None)


def _csv(path: Path, text: str, delimiter: str) -> Table:
    try:
        rows = [row for row in csv.reader(io.StringIO(text), delimiter=delimiter) if any(row)]
    except csv.Error as error:
        raise DataError(f"{path} is not a readable CSV file: {error}") from None
    if not rows:
        return Table([])
    if is_image_name(rows[0][0].strip()):
        header = ["path", "label"]
    else:
        header = [name.strip().lower() for name in rows.pop(0)]
    columns = {name: i for i, name in reversed(list(enumerate(header)))}

    def column(names: Sequence[str]) -> list[str | None] | None:
        i = next((columns[name] for name in names if name in columns), None)
        if i is None:
            return None
        return [row[i].strip() if i < len(row) else None for row in rows]

    return _table(path, header, column(_PATH), column(_LABEL), column(_CLASS), column(_SPLIT))


def _parquet(path: Path) -> Table:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        header = [name.lower() for name in file.schema_arrow.names]
        columns = {name.lower(): name for name in file.schema_arrow.names}

        def column(names: Sequence[str]) -> list[str | None] | None:
            name = next((columns[name] for name in names if name in columns), None)
            if name is None:
                return None
            kind = file.schema_arrow.field(name).type
            if pyarrow.types.is_nested(kind) or pyarrow.types.is_binary(kind):
                raise DataError(
                    f"{path}: the column {name!r} holds {kind}, neither text nor the bytes of image files; "
                    "write the images as JPEG or PNG into a binary column, or to files"
                )
            values = file.read(columns=[name]).column(0).to_pylist()
            return [None if value is None else str(value) for value in values]

        return _table(path, header, column(_PATH), column(_LABEL), column(_CLASS), column(_SPLIT))
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a readable parquet file: {error}") from None


def _table(
    path: Path,
    header: Sequence[str],
    paths: list[str | None] | None,
    labels: list[str | None] | None,
    classes: list[str | None] | None,
    splits: list[str | None] | None,
) -> Table:
    if paths is None:
        raise DataError(
            f"{path} has the columns {', '.join(header)}; none of them is called {', '.join(_PATH)}. "
            "Rename the column that holds the paths to `path`"
        )
    table = Table([name or "" for name in paths], labels, classes, splits)
    return table.rows([i for i, name in enumerate(table.paths) if name])
