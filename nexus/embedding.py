"""Features to a file: `.parquet`, `.npy` or `.safetensors`, written batch by batch.

* `x.parquet`: columns `path`, `cls`, `mean_patch` (fixed-size lists of float32) and optionally `patches`;
* `x.npy`: CLS as (N, D); beside it `x.mean_patch.npy`, `x.paths.txt` and optionally `x.patches.npy`;
* `x.safetensors`: tensors `cls`, `mean_patch`, optionally `patches`; the paths as JSON in the metadata.

Patches are (N, patches, D), in parquet flattened to one list per image. Everything is float32. Files get
their names when they are complete, so a file that exists is whole.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, TypeGuard

import numpy as np
from torch import nn

from nexus.checkpoint import make_folder
from nexus.data.datasets import open_dataset
from nexus.errors import ConfigError, DataError, RunError, choose
from nexus.features import (
    Backbone,
    FeatureRows,
    Features,
    ImageSource,
    View,
    collect,
    image_size,
    iterate,
    make_view,
)

Encoder = Literal["teacher", "student"]
"""Which backbone of a run folder."""

_SAFETENSORS_HEADER_LIMIT = 100_000_000


class _Writer(Protocol):
    def write(self, names: Sequence[str], columns: dict[str, np.ndarray]) -> None:
        """Append rows."""

    def close(self, finish: bool) -> dict[str, Path]:
        """Release the files; with `finish`, complete them: ending of the final name → temporary file."""


def embed(
    data: str | Path | list[str | Path] | tuple[str | Path, ...] | ImageSource,
    model: str | Path | nn.Module,
    out: str | Path | None = None,
    *,
    patches: bool = False,
    overwrite: bool = False,
    encoder: Encoder = "teacher",
    progress: Callable[[int, int], None] | None = None,
    view: View | None = None,
    **settings: Any,
) -> Features:
    """The frozen features of every image of `data`, also written to the file `out` where given.

    `data` is anything `open_dataset` takes, or a data set; `model` anything `nexus.load` takes, or a module.
    `settings` are the fields of `nexus.features.View`: `size`, `resize`, `batch_size`, `workers`, `device`
    (default `"auto"`), `precision`, `mean`, `std`. Patch features go to the file only.
    """
    if view is None:
        settings.setdefault("device", "auto")
    view = make_view(view, settings)
    if out is not None:
        check_out(Path(out), overwrite)
    elif patches:
        raise ConfigError("patches=True needs out=FILE: patch features are written, never held in memory")
    backbone = load_backbone(model, encoder)
    dataset: ImageSource = (
        data if isinstance(data, ImageSource) and not _is_spec(data) else open_dataset(data)
    )
    rows = iterate(backbone, dataset, view, patches=patches, progress=progress)
    if out is not None:
        rows = _written(Path(out), rows)
    return collect(rows, len(dataset), size=image_size(backbone, view.size))


def _is_spec(data: object) -> TypeGuard[str | Path | Sequence[str | Path]]:
    """Whether these are names of sources; text and lists have a length and items, as data sets do."""
    return isinstance(data, str | Path | list | tuple) or not isinstance(data, ImageSource)


def load_backbone(model: str | Path | nn.Module, encoder: Encoder = "teacher") -> Any:
    """`model` itself if it is a module, else what `nexus.load` makes of it."""
    if isinstance(model, nn.Module):
        if not isinstance(model, Backbone):
            raise ConfigError(
                f"a {type(model).__name__} is no backbone: it lacks embed_dim, patch_size, forward_features "
                "or get_intermediate_layers; of a DINOv2 pass model.teacher_backbone"
            )
        return model
    if not isinstance(model, str | Path):
        raise ConfigError(
            f"model={model!r} is no model; give a run folder, a weight file, a name or a module"
        )
    from nexus import weights

    return weights.load(model, encoder=encoder)


def write_features(out: Path, batches: Iterable[FeatureRows], *, overwrite: bool = False) -> int:
    """Write batches of features to `out` and return the number of rows; memory: one batch.

    Nothing appears under the final names until all is written, also when `batches` raises. Raises
    `ConfigError` for another ending than those three, `RunError` where a file is in the way,
    `DataError` when there is not one row.
    """
    check_out(out, overwrite)
    return sum(len(rows.names) for rows in _written(out, batches))


def check_out(out: Path, overwrite: bool = False) -> None:
    """Refuse an unknown ending, or files in the way."""
    choose(out.suffix.lower(), _WRITERS, "feature file ending")
    if overwrite:
        return
    for name in (out, *(_beside(out, ending) for ending in _SIDE_FILES if out.suffix.lower() == ".npy")):
        if name.exists():
            raise RunError(f"{name} exists; choose another --out, or replace it with --overwrite")


def _written(out: Path, batches: Iterable[FeatureRows]) -> Iterator[FeatureRows]:
    """Hand the batches through, write them on the way, and name the files after the last one."""
    make_folder(out.parent)
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    writer = _WRITERS[out.suffix.lower()](folder)
    count, closed = 0, False
    try:
        for rows in batches:
            columns = {"cls": rows.cls.numpy(), "mean_patch": rows.mean_patch.numpy()}
            if rows.patches is not None:
                columns["patches"] = rows.patches.numpy()
            writer.write(rows.names, columns)
            count += len(rows.names)
            yield rows
        if not count:
            raise DataError(f"there is not one image to write to {out}")
        files, closed = writer.close(finish=True), True
        # The main file comes last: where it exists, the others do.
        for ending in sorted(files, reverse=True):
            os.replace(files[ending], _beside(out, ending) if ending else out)
    finally:
        if not closed:
            writer.close(finish=False)
        shutil.rmtree(folder, ignore_errors=True)


def _beside(out: Path, ending: str) -> Path:
    return out.with_name(out.stem + ending)


_SIDE_FILES = (".mean_patch.npy", ".patches.npy", ".paths.txt")


class _ParquetWriter:
    def __init__(self, folder: Path) -> None:
        self.file = folder / "rows"
        self.writer: Any = None

    def write(self, names: Sequence[str], columns: dict[str, np.ndarray]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        arrays: dict[str, Any] = {"path": pa.array(list(names), pa.string())}
        for key, values in columns.items():
            width = int(np.prod(values.shape[1:]))
            arrays[key] = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), width)
        table = pa.table(arrays)
        if self.writer is None:
            shapes = {f"{key}_shape": json.dumps(values.shape[1:]) for key, values in columns.items()}
            self.writer = pq.ParquetWriter(self.file, table.schema.with_metadata(shapes))
        self.writer.write_table(table.replace_schema_metadata(self.writer.schema.metadata))

    def close(self, finish: bool) -> dict[str, Path]:
        if self.writer is not None:
            self.writer.close()
        return {"": self.file}


class _NpyFile:
    """An `.npy` file that grows: the header is written again at the end, with the number of rows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = path.open("wb+")
        self.shape: tuple[int, ...] = ()

    def write(self, values: np.ndarray) -> None:
        if not self.shape:
            self.shape = (0, *values.shape[1:])
            self._header()
        assert values.shape[1:] == self.shape[1:]
        self.file.write(np.ascontiguousarray(values, dtype="<f4").tobytes())
        self.shape = (self.shape[0] + len(values), *self.shape[1:])

    def _header(self) -> int:
        """NumPy pads the header so that the first axis can grow; the length stays the same."""
        self.file.seek(0)
        fields = {"descr": "<f4", "fortran_order": False, "shape": self.shape}
        np.lib.format.write_array_header_1_0(self.file, fields)
        return self.file.tell()

    def close(self, finish: bool) -> Path:
        if finish and self.shape:
            start, end = self._header(), self.path.stat().st_size
            assert end - start == 4 * int(np.prod(self.shape)), "the header has another length"
        self.file.close()
        return self.path


class _NpyWriter:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tables: dict[str, _NpyFile] = {}
        self.paths = (folder / "paths").open("w", encoding="utf-8", errors="surrogateescape", newline="\n")

    def write(self, names: Sequence[str], columns: dict[str, np.ndarray]) -> None:
        for key, values in columns.items():
            if key not in self.tables:
                self.tables[key] = _NpyFile(self.folder / key)
            self.tables[key].write(values)
        # A line is a row, so a line break inside a name must not be one.
        self.paths.writelines(name.replace("\n", "\\n") + "\n" for name in names)

    def close(self, finish: bool) -> dict[str, Path]:
        self.paths.close()
        files = {key: table.close(finish) for key, table in self.tables.items()}
        named = {"" if key == "cls" else f".{key}.npy": path for key, path in files.items()}
        return {**named, ".paths.txt": self.folder / "paths"}


class _SafetensorsWriter:
    """Raw columns on disk while it runs; at the end the header, which needs the counts, then the columns."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names: list[str] = []
        self.columns: dict[str, Any] = {}
        self.widths: dict[str, tuple[int, ...]] = {}

    def write(self, names: Sequence[str], columns: dict[str, np.ndarray]) -> None:
        for key, values in columns.items():
            if key not in self.columns:
                self.columns[key] = (self.folder / key).open("wb")
                self.widths[key] = values.shape[1:]
            self.columns[key].write(np.ascontiguousarray(values, dtype="<f4").tobytes())
        self.names += names

    def close(self, finish: bool) -> dict[str, Path]:
        for file in self.columns.values():
            file.close()
        whole = self.folder / "whole"
        if finish:
            with whole.open("wb") as target:
                header = self._header()
                target.write(len(header).to_bytes(8, "little") + header)
                for key in self.columns:
                    with (self.folder / key).open("rb") as part:
                        shutil.copyfileobj(part, target)
        return {"": whole}

    def _header(self) -> bytes:
        """The JSON of the safetensors format, padded with spaces so that the data is aligned."""
        tree: dict[str, Any] = {"__metadata__": {"paths": json.dumps(self.names)}}
        start = 0
        for key, width in self.widths.items():
            shape = (len(self.names), *width)
            end = start + 4 * int(np.prod(shape))
            tree[key] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
            start = end
        header = json.dumps(tree).encode()
        header += b" " * (-len(header) % 8)
        if len(header) > _SAFETENSORS_HEADER_LIMIT:
            raise RunError(f"{len(self.names)} paths do not fit into a safetensors header; use .parquet")
        return header


_WRITERS: dict[str, Callable[[Path], _Writer]] = {
    ".parquet": _ParquetWriter,
    ".npy": _NpyWriter,
    ".safetensors": _SafetensorsWriter,
}
