"""Sources behind a URL: tar shards, lists of images, or any other file, which is fetched as a whole."""

import io
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from nexus.data.batch import Fault
from nexus.data.datasets.address import Address, braces
from nexus.data.datasets.base import ImageDataset
from nexus.data.datasets.cache import cache_folder, cache_limit, digest, write_at_once
from nexus.data.datasets.pack import is_tar_name
from nexus.data.datasets.remote import RemoteError, expand, fetch, read_range
from nexus.data.datasets.shards import Shard, ShardDataset, dataset_of_shards, read_shard
from nexus.data.datasets.source import Source, whole
from nexus.data.datasets.tarindex import Member
from nexus.data.images import ImageLimits, Stream
from nexus.errors import DataError, ImageError

SUMS = "SHA256SUMS"
"""A file beside remote shards, lines `HEX  NAME` as `sha256sum` writes: downloads are held against it."""

_DOWNLOADS = 4


def web_source(text: str, recognise: Callable[[Address], Source]) -> Source:
    """What a URL, or a pattern of URLs with braces or `*`, leads to."""
    urls = [url for pattern in braces(text) for url in (expand(pattern) if "*" in pattern else [pattern])]
    if not urls:
        raise DataError(f"nothing matches {text}; check the pattern")
    tars = [is_tar_name(url.partition("?")[0]) for url in urls]
    if all(tars):
        return whole(text, lambda limits: _shards(urls, limits))
    if len(urls) > 1:
        raise DataError(f"{text}: several URLs at once must be tar shards; write images into a list of URLs")

    def source() -> Source:
        return recognise(Address(_fetched(urls[0])))

    def open_it(split: str | None, limits: ImageLimits) -> ImageDataset:
        dataset = source().open(split, limits)
        dataset.description = dataset.description.replace(str(_fetched(urls[0])), urls[0])
        return dataset

    return Source(text, open_it, lambda: source().splits())


def _fetched(url: str, checksum: str | None = None) -> Path:
    try:
        return fetch(url, checksum)
    except RemoteError as error:
        raise DataError(f"cannot fetch {url}: {error}; check the address and the connection") from None


class RemoteShards(ShardDataset):
    """Shards on a server. Those in the cache are read there; of others, reads fetch the image's bytes."""

    urls: tuple[str, ...]
    sizes: tuple[int, ...]

    def read(self, i: int) -> bytes:
        """The bytes of the member, or `ImageError`."""
        shard = int(self.shard[i])
        if os.path.exists(self.paths[shard]):
            return super().read(i)
        name, url = self.name(i), self.urls[shard]
        try:
            if _compressed(url):
                _list_shard(url, None, keep=True)
                return super().read(i)
            return read_range(url, int(self.offset[i]), int(self.size[i]), self.sizes[shard])
        except (RemoteError, DataError) as error:
            raise ImageError(name, f"its archive {url}: {error}") from None

    def stored(self, i: int) -> bytes:
        """The bytes where the shard is in the cache; else its address and size, which cost no download."""
        shard = int(self.shard[i])
        if os.path.exists(self.paths[shard]):
            return super().read(i)
        return f"{self.urls[shard]} {self.sizes[shard]} {self.offset[i]} {self.size[i]}".encode()

    def file(self, i: int) -> str | None:
        """None: a shard in the cache may have to go."""
        return None

    def stream(self, i: int) -> Stream:
        """The bytes in memory, unless the shard is in the cache."""
        return (
            super().stream(i) if os.path.exists(self.paths[int(self.shard[i])]) else io.BytesIO(self.read(i))
        )


def _compressed(url: str) -> bool:
    return not url.partition("?")[0].lower().endswith(".tar")


def _shards(urls: Sequence[str], limits: ImageLimits) -> RemoteShards:
    """List every shard once: the lists stay in the cache when shards have to go."""
    sums = _checksums(urls[0])
    known = [_index(url) for url in urls]
    keep = sum(size for _, size in filter(None, known)) <= cache_limit()
    with ThreadPoolExecutor(_DOWNLOADS) as pool:
        listed = list(pool.map(lambda url: _list_shard(url, sums.get(_base(url)), keep), urls))
    what = urls[0] if len(urls) == 1 else f"{len(urls):,} shards {urls[0]} ... {_base(urls[-1])}"
    dataset = dataset_of_shards([shard for shard, _ in listed], what, limits, RemoteShards)
    assert isinstance(dataset, RemoteShards), "the kind that was asked for"
    dataset.urls, dataset.sizes = tuple(urls), tuple(size for _, size in listed)
    return dataset


def _base(url: str) -> str:
    return url.partition("?")[0].rpartition("/")[2]


def _checksums(url: str) -> dict[str, str]:
    """The checksums of the shards beside `url`, where their folder has a list of them."""
    try:
        text = fetch(url.partition("?")[0].rpartition("/")[0] + f"/{SUMS}").read_text(errors="replace")
    except (RemoteError, DataError):
        return {}
    lines = (line.split(maxsplit=1) for line in text.splitlines())
    return {
        words[1].lstrip("*").strip(): words[0] for words in lines if len(words) == 2 and len(words[0]) == 64
    }


def _index_path(url: str) -> Path:
    return cache_folder() / "index" / f"{digest('shard', 1, url)}.json"


def _index(url: str) -> tuple[Shard, int] | None:
    """What the cache knows about a shard."""
    try:
        found = json.loads(_index_path(url).read_text())
        shard = Shard(
            Path(found["path"]),
            Path(found["plain"]),
            tuple(Member(*member) for member in found["members"]),
            tuple(Fault(*fault) for fault in found["faults"]),
            {key: (texts[0], texts[1]) for key, texts in found["texts"].items()},
        )
        return shard, int(found["size"])
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None


def _list_shard(url: str, checksum: str | None, keep: bool) -> tuple[Shard, int]:
    """The members of a shard and its size; downloads it unless they are known and it need not be kept."""
    known = _index(url)
    if known is not None and (not keep or known[0].plain.is_file()):
        return known
    path = _fetched(url, checksum)
    read = read_shard(path)
    place = url.partition("?")[0].partition("://")[2].partition("/")[2]
    shard = Shard(
        Path(place), read.plain, read.members, tuple(Fault(url, f.reason) for f in read.faults), read.texts
    )
    size = path.stat().st_size
    known_as = {
        "path": str(shard.path),
        "plain": str(shard.plain),
        "size": size,
        "members": shard.members,
        "faults": [(fault.name, fault.reason) for fault in shard.faults],
        "texts": shard.texts,
    }
    text = json.dumps(known_as).encode()
    write_at_once(_index_path(url), lambda file: file.write(text))
    return shard, size
