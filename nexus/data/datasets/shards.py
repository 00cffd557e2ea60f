"""Images in `.tar` shards, WebDataset's among them, reached in any order."""

import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nexus.data.batch import Fault
from nexus.data.datasets.base import ImageDataset
from nexus.data.datasets.folder import describe
from nexus.data.datasets.handles import Handles, Part
from nexus.data.datasets.labels import Classes, Labels, encode_labels, folder_labels, without_outer_folder
from nexus.data.datasets.names import Names, extension, is_hidden, is_image_name
from nexus.data.datasets.tarindex import Member, index_tar
from nexus.data.datasets.unpacked import plain_tar
from nexus.data.images import ImageLimits, Stream, file_fault
from nexus.errors import DataError, ImageError

_MAX_LABEL_FILE = 1 << 20


Texts = Mapping[str, tuple[str | None, str | None]]
"""Sample key → its label and its class name, as text."""


@dataclass(frozen=True)
class Shard:
    """One archive: its name, the plain tar to read, the files in it, their labels, and what is broken."""

    path: Path
    plain: Path
    members: tuple[Member, ...]
    faults: tuple[Fault, ...]
    texts: Texts = field(default_factory=dict)


def read_shard(path: Path) -> Shard:
    """List an archive, decompressing it into the cache first where needed."""
    plain, damage = plain_tar(path)
    index = index_tar(plain)
    reasons = "; ".join(reason for reason in (damage, index.broken) if reason)
    faults = (Fault(path.name, reasons),) if reasons else ()
    with open(plain, "rb") as file:
        texts = {key: _label_text(file, m) for key, m in _label_members(index.members).items()}
    return Shard(path, plain, index.members, faults, texts)


@dataclass(frozen=True)
class Place:
    """An image: number of the shard, and the member in it."""

    shard: int
    member: Member


class ShardDataset(ImageDataset):
    """Members of tar archives. A read is one `pread`, at any index, in any process or thread."""

    def __init__(
        self,
        shards: Sequence[Shard],
        names: Sequence[str],
        places: Sequence[Place],
        description: str,
        limits: ImageLimits,
        labels: Labels | None = None,
        classes: Classes = (),
        faults: tuple[Fault, ...] = (),
    ) -> None:
        super().__init__(description, limits, labels, classes, faults)
        self.names = Names(names)
        self.paths = tuple(str(shard.plain.resolve()) for shard in shards)
        self.shard = np.array([place.shard for place in places], dtype=np.int32)
        self.offset = np.array([place.member.offset for place in places], dtype=np.int64)
        self.size = np.array([place.member.size for place in places], dtype=np.int64)
        self.handles = Handles()

    def __len__(self) -> int:
        return len(self.names)

    def name(self, i: int) -> str:
        """The member's name; with several shards, after the name of its shard."""
        return self.names[i]

    def read(self, i: int) -> bytes:
        """The bytes of the member, or `ImageError` where the archive is gone or has been cut."""
        size = int(self.size[i])
        try:
            data = self.handles.read(self.paths[int(self.shard[i])], int(self.offset[i]), size)
        except OSError as error:
            raise ImageError(self.name(i), f"its archive: {file_fault(error)}") from None
        except (MemoryError, OverflowError):
            raise ImageError(self.name(i), "file too large for memory") from None
        if len(data) < size:
            raise ImageError(self.name(i), "its archive has been cut short since it was opened")
        return data

    def file(self, i: int) -> str | None:
        """The archive."""
        return self.paths[int(self.shard[i])]

    def stream(self, i: int) -> Stream:
        """A window on the archive, or on memory for what one read brings anyway."""
        size = int(self.size[i])
        if size <= 1 << 18:
            return io.BytesIO(self.read(i))
        part = Part(self.handles, self.paths[int(self.shard[i])], int(self.offset[i]), size)
        return io.BufferedReader(part, 1 << 16)


def open_shards(paths: Sequence[Path], limits: ImageLimits) -> ShardDataset:
    """All images of the archives, in their order. Labels from `.cls` or `.json`, else from folders."""
    what = str(paths[0]) if len(paths) == 1 else f"{len(paths):,} shards {paths[0]} ... {paths[-1].name}"
    return dataset_of_shards([read_shard(path) for path in paths], what, limits)


def dataset_of_shards(
    shards: Sequence[Shard], what: str, limits: ImageLimits, kind: "type[ShardDataset] | None" = None
) -> ShardDataset:
    """The images of archives that have been listed."""
    prefixes = _prefixes([shard.path for shard in shards])
    found = [
        (prefix + member.name, Place(number, member), shard.texts.get(_key(member.name), (None, None)))
        for number, (shard, prefix) in enumerate(zip(shards, prefixes, strict=True))
        for member in image_members(shard.members)
    ]
    faults = tuple(fault for shard in shards for fault in shard.faults)
    if not found:
        raise DataError(_nothing(what, shards, faults))
    names, places, texts = zip(*found, strict=True)
    labels, classes = encode_labels([label for label, _ in texts], [name for _, name in texts])
    if labels is None:
        labels, classes = folder_labels(without_outer_folder([place.member.name for place in places]))
    others = sum(len(shard.members) for shard in shards) - len(names)
    description = describe(what, len(names), labels, others)
    return (kind or ShardDataset)(shards, names, places, description, limits, labels, classes, faults)


def image_members(members: Sequence[Member]) -> list[Member]:
    """The members that are images. Beside `key.jpg`, a `key.seg.png` is an annotation, not an image."""
    images = [m for m in members if is_image_name(m.name) and not is_hidden(m.name)]
    plain = {_key(m.name) for m in images if _is_plain(m.name)}
    return [m for m in images if _is_plain(m.name) or _key(m.name) not in plain]


def _key(name: str) -> str:
    """WebDataset's sample key: the path up to the first dot of the file name."""
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.split(".", 1)[0]


def _is_plain(name: str) -> bool:
    return name == _key(name) + name[len(name) - len(extension(name)) :]


def _label_members(members: Sequence[Member]) -> dict[str, Member]:
    """Key → its `.cls` file, or its `.json` where there is no `.cls`."""
    found = {_key(m.name): m for m in members if m.name == f"{_key(m.name)}.json"}
    return found | {_key(m.name): m for m in members if m.name == f"{_key(m.name)}.cls"}


def _label_text(file: Stream, member: Member | None) -> tuple[str | None, str | None]:
    """Label and class name as text; None for what the file does not say."""
    if member is None or member.size > _MAX_LABEL_FILE:
        return None, None
    file.seek(member.offset)
    text = file.read(member.size).decode("utf-8", "replace").strip()
    if member.name.endswith(".cls"):
        return text, None
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return None, None
    if not isinstance(values, dict):
        return None, None
    label = next((values[key] for key in ("label", "cls") if key in values), None)
    return _scalar(label), _scalar(next((values[k] for k in ("class", "class_name") if k in values), None))


def _scalar(value: Any) -> str | None:
    return str(value) if isinstance(value, (str, int, float)) else None


def _prefixes(paths: Sequence[Path]) -> list[str]:
    """What goes before the members' names to keep them apart: nothing, or the shard's own name."""
    if len(paths) == 1:
        return [""]
    if len({path.name for path in paths}) == len(paths):
        return [f"{path.name}/" for path in paths]
    root = os.path.commonpath([path.absolute().parent for path in paths])
    return [f"{path.absolute().relative_to(root).as_posix()}/" for path in paths]


def _nothing(what: str, shards: Sequence[Shard], faults: tuple[Fault, ...]) -> str:
    if faults:
        return f"no readable image in {what}: {faults[0].name}: {faults[0].reason}"
    count = sum(len(shard.members) for shard in shards)
    endings = sorted({extension(m.name) or "no extension" for shard in shards for m in shard.members})
    kinds = f" ({', '.join(endings[:6])})" if endings else ""
    return f"no images in {what}, but {count:,} other files{kinds}; is it the right archive?"
