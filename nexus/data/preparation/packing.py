"""`nexus data pack`: a data set as tar shards, every image resized once and encoded again.

::

    shards/
      shard-000000.tar    000000000.jpg, 000000000.cls, 000000001.jpg, ... (WebDataset's naming)
      manifest.csv        file, shard, label, class, source, width, height: one row an image
      unreadable.csv      name, reason (only if there are any)
      SHA256SUMS          of all of these
      .parts/             while it is written: the plan, and a record of each complete shard

The images of a shard follow from the images before it alone, so a job that was killed goes on behind its last
complete shard, and what it leaves is the same to the byte as without the kill.
"""

import csv
import hashlib
import io
import json
import os
import re
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import PIL

from nexus import __version__
from nexus.checkpoint import sync_folder, write_atomic
from nexus.data.batch import Fault
from nexus.data.datasets import ImageDataset, open_dataset
from nexus.data.images import image_header
from nexus.data.parallel import Progress, all_cores, in_order
from nexus.data.picture import Look
from nexus.data.preparation.encoding import encode
from nexus.errors import ConfigError, DataError, ImageError, RunError

SUMS, MANIFEST, UNREADABLE = "SHA256SUMS", "manifest.csv", "unreadable.csv"
PARTS, PLAN = ".parts", "plan.json"
COLUMNS = ("file", "shard", "label", "class", "source", "width", "height")
UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}


@dataclass(frozen=True)
class Packed:
    """A pack that is complete."""

    path: Path
    images: int
    shards: int
    bytes: int
    """Of all shards."""
    unreadable: int
    resumed_at: int
    """Images that an interrupted job had packed already."""


@dataclass(frozen=True)
class Shard:
    """A complete shard: the images of the data set that it covers, its rows, what could not be used."""

    name: str
    start: int
    stop: int
    size: int
    sha256: str
    rows: list[list[str]]
    faults: list[list[str]]


@dataclass(frozen=True)
class _File:
    """An encoded image with its row of the manifest."""

    data: bytes
    row: list[str]


def pack(
    data: str | Path | ImageDataset,
    out: str | Path,
    *,
    size: int | None = 512,
    quality: int = 95,
    shard_size: int | str = "256MB",
    workers: int | None = None,
    progress: Progress | None = None,
) -> Packed:
    """Write the images of `data` as tar shards of about `shard_size` to the folder `out`, or go on with it.

    The shorter side becomes `size` pixels where it is longer; `None` keeps all sizes. `quality` is JPEG's.
    What each image becomes is in `nexus.data.preparation.encoding`. `workers` are threads, left out: one for
    each core. Raises `ConfigError` for settings, `DataError` where no image can be used, `RunError` where
    something else is in the folder or the disk refuses.
    """
    limit = parse_bytes(shard_size)
    _check(size, quality, limit)
    dataset = open_dataset(data).seen_as(Look("native"))
    job = _Job(dataset, Path(out), size, quality, limit, all_cores() if workers is None else workers)
    with _explained(job.out):
        return job.run(progress)


def parse_bytes(text: int | str) -> int:
    """`256MB`, `64k`, `1.5GB` or a number, in bytes; decimal units."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmg]?)b?\s*", str(text).lower())
    if found is None or not float(found[1]):
        raise ConfigError(f"shard_size={text} is no size; write it as in 256MB or 1GB")
    return int(float(found[1]) * UNITS[found[2]])


def _check(size: int | None, quality: int, limit: int) -> None:
    if size is not None and size < 1:
        raise ConfigError(f"size={size} leaves no pixel; use 1 or more, or leave it out")
    if not 1 <= quality <= 100:
        raise ConfigError(f"quality={quality} should be from 1 to 100; 95 loses little")


@dataclass(frozen=True)
class _Job:
    dataset: ImageDataset
    out: Path
    size: int | None
    quality: int
    limit: int
    workers: int

    @property
    def parts(self) -> Path:
        return self.out / PARTS

    def run(self, progress: Progress | None) -> Packed:
        """Write what is missing."""
        self._begin()
        shards = self._complete()
        done = shards[-1].stop if shards else 0
        began = done
        total = len(self.dataset)

        def report(images: int, _: int) -> None:
            if progress is not None:
                progress(began + images, total)

        files = in_order(self._file, range(done, total), self.workers, report)
        while done < total:
            shard = self._write(len(shards), done, files)
            shards.append(shard)
            done = shard.stop
        return self._finish(shards, began)

    def _begin(self) -> None:
        """The folder with the plan of this job, or the error that says why it cannot be had."""
        names = (self.dataset.name(i) for i in range(len(self.dataset)))
        listing = hashlib.sha256("\0".join(names).encode("utf-8", "surrogateescape")).hexdigest()[:16]
        plan = {
            "data": f"{self.dataset.description} {listing}",
            "size": self.size,
            "quality": self.quality,
            "shard_size": self.limit,
            "versions": f"nexus {__version__}, Pillow {PIL.__version__}",
        }
        path = self.parts / PLAN
        if path.is_file():
            before = json.loads(path.read_text(encoding="utf-8"))
            if before != plan:
                different = ", ".join(key for key in plan if before.get(key) != plan[key])
                raise RunError(
                    f"{self.out} holds an unfinished pack with another {different}; remove the folder, or "
                    "choose another --out"
                )
            return
        if self.out.exists() and (not self.out.is_dir() or any(self.out.iterdir())):
            raise RunError(f"{self.out} is not empty; choose another --out, or remove it")
        self.parts.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(plan, indent=1))

    def _complete(self) -> list[Shard]:
        """The shards of an earlier job, in order, as long as each is there with its size."""
        shards: list[Shard] = []
        while (record := self.parts / f"{_shard_name(len(shards))}.json").is_file():
            shard = Shard(**json.loads(record.read_text(encoding="utf-8")))
            tar = self.out / shard.name
            if not tar.is_file() or tar.stat().st_size != shard.size:
                break
            shards.append(shard)
        return shards

    def _file(self, index: int) -> _File | Fault:
        """One image, encoded."""
        dataset = self.dataset
        try:
            data, ending = encode(dataset.picture(index), self.size, self.quality)
            width, height, _ = image_header(data, dataset.name(index), dataset.limits)
        except ImageError as error:
            return Fault(error.name, error.reason)
        label = dataset.label(index)
        known = label >= 0
        named = dataset.classes[label] if known and label < len(dataset.classes) else ""
        numbers = str(label) if known else "", named
        name = dataset.name(index).encode("utf-8", "backslashreplace").decode()
        return _File(data, [f"{index:09d}.{ending}", "", *numbers, name, str(width), str(height)])

    def _write(self, number: int, start: int, files: Iterator[_File | Fault]) -> Shard:
        """One shard, complete when its record is there."""
        name = f"{_shard_name(number)}.tar"
        writing = self.parts / f"{name}.writing"
        rows: list[list[str]] = []
        faults: list[list[str]] = []
        stop = start
        with (
            open(writing, "wb") as raw,
            tarfile.open(fileobj=raw, mode="w", format=tarfile.USTAR_FORMAT) as tar,
        ):
            for file in files:
                stop += 1
                if isinstance(file, Fault):
                    faults.append([file.name.encode("utf-8", "backslashreplace").decode(), file.reason])
                    continue
                _add(tar, file.row[0], file.data)
                if file.row[2]:
                    _add(tar, f"{file.row[0].partition('.')[0]}.cls", file.row[2].encode())
                rows.append([file.row[0], name, *file.row[2:]])
                if raw.tell() >= self.limit:
                    break
        with open(writing, "rb+") as written:
            os.fsync(written.fileno())
            digest = hashlib.file_digest(written, "sha256").hexdigest()
        shard = Shard(name, start, stop, writing.stat().st_size, digest, rows, faults)
        os.replace(writing, self.out / name)
        sync_folder(self.out)
        write_atomic(self.parts / f"{_shard_name(number)}.json", json.dumps(asdict(shard)))
        return shard

    def _finish(self, shards: list[Shard], began: int) -> Packed:
        rows = [row for shard in shards for row in shard.rows]
        faults = [[f.name, f.reason] for f in self.dataset.faults] + [f for s in shards for f in s.faults]
        if not rows:
            shutil.rmtree(self.out)
            raise DataError(f"no image of {self.dataset.description} can be packed: {': '.join(faults[0])}")
        tables = {MANIFEST: _table(COLUMNS, rows)}
        if faults:
            tables[UNREADABLE] = _table(("name", "reason"), faults)
        sums = {shard.name: shard.sha256 for shard in shards}
        for name, text in tables.items():
            write_atomic(self.out / name, text)
            sums[name] = hashlib.sha256(text.encode()).hexdigest()
        write_atomic(self.out / SUMS, "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items())))
        (self.parts / PLAN).unlink()
        shutil.rmtree(self.parts)
        return Packed(
            path=self.out,
            images=len(rows),
            shards=len(shards),
            bytes=sum(shard.size for shard in shards),
            unreadable=len(faults),
            resumed_at=began,
        )


def _shard_name(number: int) -> str:
    return f"shard-{number:06d}"


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """A member without date or owner."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def _table(columns: tuple[str, ...], rows: list[list[str]]) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()


@contextmanager
def _explained(out: Path) -> Iterator[None]:
    """What the disk refuses, as one message that says how to go on."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"{out} could not be written: {error.strerror or error}. Free space or mend the permissions; the "
            "same command goes on behind the last complete shard"
        ) from error
