"""From a data set to a feature file: streamed, in the order of the source, resumable at any moment."""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from nexus import checkpoint
from nexus.data.batch import Fault
from nexus.embedding.fingerprint import fingerprint
from nexus.embedding.formats import FORMATS, GRID, IMAGE, LABEL, NPY_HEADER, unreadable_list
from nexus.embedding.partial import PartialTable
from nexus.errors import ConfigError, RunError, choose
from nexus.features import ImageSource, Progress, View, Wanted
from nexus.features.extraction import in_order, iterate_columns, normalization_of, nothing_readable, place_on
from nexus.features.outputs import depth_of
from nexus.features.pixels import Loaded
from nexus.features.view import NATIVE

log = logging.getLogger(__name__)

Dtype = Literal["float32", "float16"]
DTYPES: Mapping[str, torch.dtype] = {"float32": torch.float32, "float16": torch.float16}

_SHOWN = 10


@dataclass(frozen=True)
class Written:
    """A feature file that is complete."""

    path: Path
    rows: int
    columns: Mapping[str, tuple[int, ...]]
    """Column → shape of a row; -1 where rows differ."""
    unreadable: int = 0
    """Images that are not in the file."""
    unreadable_list: Path | None = None
    """The CSV of their names and the reasons; None where all could be read."""
    faults: tuple[Fault, ...] = field(default=(), repr=False)
    """The first few of them."""
    resumed_at: int = 0
    """Images that an interrupted job had seen already."""

    def __len__(self) -> int:
        return self.rows

    @property
    def dim(self) -> int:
        """Width of a token."""
        return next(iter(self.columns.values()))[-1]


@dataclass(frozen=True)
class Job:
    """Everything that decides about a feature file."""

    backbone: Any
    dataset: ImageSource
    out: Path
    view: View
    wanted: Wanted
    dtype: str = "float32"
    overwrite: bool = False

    def __post_init__(self) -> None:
        choose(self.out.suffix.lower(), FORMATS, "feature file ending")
        choose(self.dtype, DTYPES, "dtype")
        if self.view.size == NATIVE and "patches" in self.wanted.features and self.ending != ".parquet":
            raise ConfigError(
                f"patches of images in their native sizes have no common shape, which {self.ending} needs;"
                " write .parquet, or choose a size"
            )

    @property
    def ending(self) -> str:
        """The format."""
        return self.out.suffix.lower()

    def run(self, progress: Progress | None = None) -> Written:
        """Write the file, or go on with writing it. Raises `RunError` where the disk refuses."""
        place_on(self.backbone, self.view.device)
        columns = list(self.wanted.columns(depth_of(self.backbone)))
        with self._table() as table, _explained(self, table):
            table.resume(discard=self.overwrite)
            began = table.images
            if began:
                log.info("going on with %s at image %d of %d", table.folder, began, len(self.dataset))
            if table.moves is None:
                refuse(self.out, self.overwrite, columns=columns)
                self._fill(table, progress)
                self._complete(table)
            written = self._written(table, began)
            _move(table, self.out)
        return written

    def _table(self) -> PartialTable:
        normalization = normalization_of(self.backbone, self.view)
        made_of = fingerprint(self.backbone, self.dataset, self.view, self.wanted, self.dtype, normalization)
        return PartialTable(partial_folder(self.out), made_of, NPY_HEADER if self.ending == ".npy" else 0)

    def _fill(self, table: PartialTable, progress: Progress | None) -> None:
        total, fresh = len(self.dataset), table.images == 0
        batches = iterate_columns(self.backbone, self.dataset, self.view, self.wanted, start=table.images)
        with table.kept():
            for batch, columns in batches:
                found = getattr(self.dataset, "faults", ()) if fresh else ()
                fresh = False
                table.append(
                    len(batch.names) + len(batch.faults),
                    batch.names,
                    self._arrays(batch, columns) if batch.names else {},
                    (*found, *batch.faults),
                )
                if progress is not None:
                    progress(table.images, total)
        if table.rows:
            table.commit()
        else:
            faults = tuple(islice(table.faults(), 1)) if table.unreadable else ()
            table.remove()
            raise nothing_readable(total, faults)

    def _arrays(
        self, batch: Loaded, columns: list[dict[str, torch.Tensor]]
    ) -> dict[str, np.ndarray | list[np.ndarray]]:
        """The columns of a batch as they are stored."""
        arrays: dict[str, np.ndarray | list[np.ndarray]] = {LABEL: batch.labels.numpy()}
        maps = [name for name in columns[0] if name.startswith("patches")]
        flat = [{name: rows for name, rows in part.items() if name not in maps} for part in columns]
        if maps:
            patch = self.backbone.patch_size
            numbers = [
                {
                    IMAGE: torch.tensor(group.images, dtype=torch.int32),
                    GRID: torch.tensor([_grid(group.pixels, patch, self.view)] * len(group.rows)).int(),
                }
                for group in batch.groups
            ]
            flat = [{**number, **part} for number, part in zip(numbers, flat, strict=True)]
        for name, rows in in_order(batch.groups, flat).items():
            arrays[name] = self._stored(rows) if rows.is_floating_point() else rows.numpy()
        for name in maps:
            arrays[name] = self._maps(batch, [part[name] for part in columns])
        first = [name for name in arrays if name not in columns[0]]
        return {name: arrays[name] for name in (*first, *columns[0])}

    def _maps(self, batch: Loaded, parts: list[torch.Tensor]) -> np.ndarray | list[np.ndarray]:
        """Patch tokens: as (rows, grid rows, grid cols, dim), or one array an image where grids differ."""
        if self.view.size != NATIVE:
            grid = _grid(batch.groups[0].pixels, self.backbone.patch_size, self.view)
            return self._stored(parts[0].unflatten(1, grid))
        placed = {
            row: self._stored(tokens[place])
            for group, tokens in zip(batch.groups, parts, strict=True)
            for place, row in enumerate(group.rows)
        }
        return [placed[row] for row in range(len(batch.names))]

    def _stored(self, rows: torch.Tensor) -> np.ndarray:
        stored = rows.to(DTYPES[self.dtype])
        if self.dtype == "float16" and not torch.equal(stored.isfinite(), rows.isfinite()):
            raise RunError("a feature is beyond ±65,504, which float16 cannot hold; use --dtype float32")
        return stored.numpy()

    def _complete(self, table: PartialTable) -> None:
        """Build the final files in the folder of the table."""
        csv_name = unreadable_name(self.out)
        metadata = {"nexus": "features", "fit": self.view.fit, "patch_size": str(self.backbone.patch_size)}
        moves = [*unreadable_list(table, csv_name), *FORMATS[self.ending](table, self.out, metadata)]
        for name, _ in moves:
            if name is not None:
                _sync(table.folder / name)
        table.commit(moves)

    def _written(self, table: PartialTable, began: int) -> Written:
        columns = {name: tuple(shape) for name, (_, shape) in table.columns.items()}
        features = {name: shape for name, shape in columns.items() if name not in (LABEL, IMAGE, GRID)}
        return Written(
            path=self.out,
            rows=table.rows,
            columns=features,
            unreadable=table.unreadable,
            unreadable_list=self.out.with_name(unreadable_name(self.out)) if table.unreadable else None,
            faults=tuple(islice(table.faults(), _SHOWN)),
            resumed_at=began,
        )


def partial_folder(out: Path) -> Path:
    """Where the rows are kept until the file is complete."""
    return out.with_name(f"{out.name}.partial")


def unreadable_name(out: Path) -> str:
    """The name of the list of images that could not be used."""
    return f"{out.stem}.unreadable.csv"


def refuse(out: Path, overwrite: bool = False, columns: list[str] | None = None) -> None:
    """Refuse an unknown ending, a place that cannot be written, or files in the way."""
    choose(out.suffix.lower(), FORMATS, "feature file ending")
    above = next(parent for parent in out.parents if parent.exists() or parent.is_symlink())
    if not above.is_dir():
        raise RunError(f"the folder {above} cannot be made: File exists; choose another --out")
    if not os.access(above, os.W_OK):
        raise RunError(f"nothing may be written to {above}; mend its permissions, or choose another --out")
    if overwrite:
        return
    beside = [unreadable_name(out)]
    if out.suffix.lower() == ".npy":
        beside += [f"{out.stem}.paths.txt", *(f"{out.stem}.{name}.npy" for name in (columns or [])[1:])]
    for path in (out, *(out.with_name(name) for name in beside)):
        if path.exists():
            raise RunError(f"{path} exists; choose another --out, or replace it with --overwrite")


def _grid(pixels: torch.Tensor, patch: int, view: View) -> tuple[int, int]:
    """Patches down and across of pixels as they are loaded, before padding or cropping."""
    from nexus.models.vision.fitting import place

    return place(pixels.shape[-2], pixels.shape[-1], patch, view.fit).grid


def _move(table: PartialTable, out: Path) -> None:
    """Give the files their names, the main one last: where it exists, the others do."""
    assert table.moves is not None
    table.close()
    for name, final in table.moves:
        target = out.with_name(final)
        if name is None:
            target.unlink(missing_ok=True)
        elif (table.folder / name).exists():  # else an earlier attempt moved it
            os.replace(table.folder / name, target)
    checkpoint.sync_folder(out.absolute().parent)
    table.remove()


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


@contextmanager
def _explained(job: Job, table: PartialTable) -> Iterator[None]:
    """What the disk refuses as one message that says what is safe."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"{job.out} could not be written: {error.strerror or error}. What {table.folder} holds is kept:"
            " free space or mend the permissions, and the same command goes on there"
        ) from error
