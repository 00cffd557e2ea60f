"""What Hugging Face `datasets` saves to disk: arrow files, mapped into memory: a read touches one image."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nexus.data.datasets.address import Address
from nexus.data.datasets.folder import describe
from nexus.data.datasets.source import Source
from nexus.data.datasets.splits import in_order, match_split
from nexus.data.datasets.tables import Columns, TableDataset, TableFile, image_columns, table_labels
from nexus.data.images import ImageLimits
from nexus.errors import DataError


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
        wanted = None if split is None else match_split(split, splits, str(root))
        return _open(root, splits or ("",), wanted, limits)

    return Source(address.text, open_it, lambda: splits)


def _open(root: Path, folders: Sequence[str], split: str | None, limits: ImageLimits) -> ArrowDataset:
    columns: Columns | None = None
    files: list[TableFile] = []
    for folder in folders:
        for name in _saved_files(root / folder):
            batches = _batches(root / folder / name)
            if not batches:
                continue
            columns = columns or image_columns(batches[0].schema)
            if columns is None:
                raise DataError(
                    f"{root / folder / name} has the columns {', '.join(batches[0].schema.names)}; "
                    "none of them holds image bytes"
                )
            label = columns.label
            values = [v for batch in batches for v in batch.column(label).to_pylist()] if label else []
            starts = [0, *np.cumsum([batch.num_rows for batch in batches]).tolist()]
            files.append(TableFile(f"{folder}/{name}" if folder else name, folder, starts, values))
    chosen = [file for file in files if split is None or file.split == split]
    if columns is None or not chosen:
        raise DataError(f"the Hugging Face data set {root} has no rows")
    labels, classes = table_labels(files, chosen, columns.names)
    what = f"Hugging Face data set {root}" + (f", split {split}" if split else "")
    description = describe(what, sum(file.starts[-1] for file in chosen), labels)
    return ArrowDataset(root, chosen, columns.image, description, limits, labels, classes)


def _batches(path: Path) -> list[Any]:
    import pyarrow as pa

    try:
        return _mapped(str(path))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a readable arrow file: {error}") from None


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
