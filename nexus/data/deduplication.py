"""Near-duplicate images: find groups of copies and keep one of each.

::

    every image          exact hash of its pixels, perceptual hash or embedding, number of pixels
    identical pixels     linked first, by hash table: O(n)
    similarity >= t      linked next, by exact blockwise search over the distinct rest: O(n²), constant memory
    connected components are the groups; the largest image of each is kept

Similarity is the share of equal bits of two 256-bit perceptual hashes, or the cosine of two embeddings.
The hash recognises re-encoded, resized, blurred, noisy and recoloured copies; crops, mirror images,
rotations and collages need an embedding. The DINOv2 paper (§3) uses SSCD embeddings and a cosine of 0.6.
Groups are chains of links: two members of one group may be less similar than the threshold.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Int8
from PIL import Image
from torch import Tensor

from nexus.data.batch import Fault
from nexus.data.hashing import content_hash, perceptual_hash
from nexus.data.neighbors import Components, pairs_above, unit_rows
from nexus.data.view import DatasetView, ImageSequence, Progress, each_picture, item_name
from nexus.errors import ConfigError, DataError

Embedding = Callable[[list[Image.Image]], Any]
"""Pictures → (pictures, dim) numbers, as a tensor or an array."""

_BATCH = 64


@dataclass(frozen=True)
class Copy:
    """An image that was left out because another one of its group was kept."""

    index: int
    name: str
    similarity: float
    """To the kept image: 0..1 for hashes, -1..1 for embeddings; may be below the threshold in a chain."""
    identical: bool
    """Whether its pixels equal those of the kept image."""


@dataclass(frozen=True)
class DuplicateGroup:
    """One picture and its copies."""

    kept: int
    name: str
    copies: tuple[Copy, ...]


@dataclass(frozen=True)
class DuplicateReport:
    """What `deduplicate_images` removed and why. Indices are those of the original data set."""

    images: int
    threshold: float
    groups: tuple[DuplicateGroup, ...]
    unreadable: tuple[Fault, ...]

    @property
    def removed(self) -> tuple[int, ...]:
        """Indices of the copies, ascending; unreadable images are not among them."""
        return tuple(sorted(copy.index for group in self.groups for copy in group.copies))

    def sentence(self) -> str:
        """The report in one line."""
        copies = [copy for group in self.groups for copy in group.copies]
        identical = sum(copy.identical for copy in copies)
        return (
            f"{self.images} images: {len(copies)} copies of {len(self.groups)} pictures left out "
            f"({identical} with identical pixels), {len(self.unreadable)} unreadable, "
            f"{self.images - len(copies) - len(self.unreadable)} kept"
        )


def deduplicate_images(
    dataset: ImageSequence,
    threshold: float = 0.95,
    *,
    embed: Embedding | Tensor | np.ndarray | None = None,
    hash_size: int = 16,
    workers: int = 0,
    progress: Progress | None = None,
) -> DatasetView[DuplicateReport]:
    """The data set without near-duplicates; of each group the image with most pixels is kept.

    `dataset` is anything with a length whose items are PIL images, `Sample`s or (image, ...) tuples; the
    items of the result are the same. `threshold` is the least similarity of copies, in (0, 1]. `embed`
    replaces the perceptual hash: a function of a list of pictures, or one row per image of the data set.
    `workers` threads read images. Unreadable images are left out and listed in `.report`.
    """
    if not 0 < threshold <= 1:
        raise ConfigError(f"threshold={threshold} is not a similarity; choose one in (0, 1], such as 0.95")
    prints = _Fingerprints(dataset, None if embed is None else _Embedder(embed, len(dataset)), hash_size)
    readable = prints.read(workers, progress)
    groups = [_group(dataset, prints, members) for members in _find(prints, readable, threshold)]
    report = DuplicateReport(len(dataset), threshold, tuple(groups), tuple(prints.faults))
    removed = set(report.removed)
    return DatasetView(dataset, [i for i in readable if i not in removed], report)


class _Embedder:
    """Rows of an embedding by index: computed from pictures in batches, or given."""

    def __init__(self, embed: Embedding | Tensor | np.ndarray, count: int) -> None:
        self.compute = embed if callable(embed) else None
        self.given = None if callable(embed) else _table(embed, count)
        self._waiting: list[Image.Image] = []
        self._parts: list[Tensor] = []

    def add(self, image: Image.Image) -> None:
        """Take in the next readable picture."""
        if self.compute is not None:
            self._waiting.append(image)
            if len(self._waiting) == _BATCH:
                self._flush()

    def rows(self, readable: Sequence[int]) -> Float[Tensor, "samples dim"]:
        """Unit rows of the pictures that were added, in order."""
        if self.given is not None:
            return unit_rows(self.given[list(readable)])
        self._flush()
        return torch.cat(self._parts)

    def _flush(self) -> None:
        if self._waiting and self.compute is not None:
            rows = _table(self.compute(self._waiting), len(self._waiting))
            self._parts.append(unit_rows(rows))
            self._waiting = []


def _table(values: Any, count: int) -> Float[Tensor, "samples dim"]:
    rows = torch.as_tensor(values).detach().float()
    if rows.ndim != 2 or len(rows) != count:
        raise DataError(
            f"the embedding of {count} images has shape {tuple(rows.shape)}; it must be ({count}, dim)"
        )
    if not bool(rows.isfinite().all()):
        raise DataError("the embedding holds NaN or infinite numbers; no similarity can be computed")
    return rows


@dataclass
class _Print:
    content: bytes
    pixels: int
    bits: np.ndarray | None


class _Fingerprints:
    """Everything that is remembered of the pictures of a data set, by index."""

    def __init__(self, dataset: ImageSequence, embedder: _Embedder | None, hash_size: int) -> None:
        self.dataset, self.embedder, self.hash_size = dataset, embedder, hash_size
        self.prints: dict[int, _Print] = {}
        self.faults: list[Fault] = []
        self.rows: Tensor = torch.empty(0, 0)
        self.row_of: dict[int, int] = {}
        self.scale = 1.0

    def read(self, workers: int, progress: Progress | None) -> list[int]:
        """Look at every picture once; the indices of the readable ones."""
        found = each_picture(self.dataset, self._measure, workers=workers, progress=progress)
        for index, (mark, image) in enumerate(found):
            if isinstance(mark, Fault):
                self.faults.append(mark)
                continue
            self.prints[index] = mark
            if self.embedder is not None and image is not None:
                self.embedder.add(image)
        readable = list(self.prints)
        if self.faults and not readable:
            first = self.faults[0]
            raise DataError(
                f"none of the {len(self.dataset)} images can be read; the first: {first.name} "
                f"({first.reason})"
            )
        if readable:
            self._tabulate(readable)
        return readable

    def _measure(self, index: int, image: Image.Image | Fault) -> tuple[_Print | Fault, Image.Image | None]:
        if isinstance(image, Fault):
            return image, None
        bits = None if self.embedder else perceptual_hash(image, self.hash_size)
        mark = _Print(content_hash(image), image.width * image.height, bits)
        return mark, image if self.embedder else None

    def _tabulate(self, readable: list[int]) -> None:
        if self.embedder is not None:
            self.rows, indices = self.embedder.rows(readable), readable
        else:
            indices = [index for index in readable if self.prints[index].bits is not None]
            self.rows = _signs([self.prints[index].bits for index in indices], self.hash_size)
            self.scale = float(self.hash_size**2)
        self.row_of = {index: row for row, index in enumerate(indices)}

    def similarity(self, first: int, second: int) -> float:
        """Of two images: share of equal bits, or cosine."""
        if self.prints[first].content == self.prints[second].content:
            return 1.0
        product = float(self.rows[self.row_of[first]].float() @ self.rows[self.row_of[second]].float())
        return product if self.embedder is not None else (1 + product / self.scale) / 2

    def least_product(self, threshold: float) -> float:
        """The dot product of two rows whose similarity is `threshold`, with room for rounding."""
        if self.embedder is not None:
            return threshold - 1e-6
        # Equal minus different bits: 2 * threshold - 1 of all, a whole number.
        return self.scale * (2 * threshold - 1) - 1e-3


def _signs(bits: list, hash_size: int) -> Int8[Tensor, "samples dim"]:
    """Hash bits as +1 and -1: the dot product counts equal minus different bits."""
    if not bits:
        return torch.empty(0, hash_size**2, dtype=torch.int8)
    return torch.from_numpy(np.stack(bits).astype(np.int8) * 2 - 1)


def _find(prints: _Fingerprints, readable: list[int], threshold: float) -> list[Int[np.ndarray, " members"]]:
    """Groups of two or more images, as indices into the data set."""
    components = Components(len(prints.dataset))
    distinct = _link_identical(components, {i: prints.prints[i].content for i in readable})
    distinct = [index for index in distinct if index in prints.row_of]
    if prints.embedder is None:
        hashes = {i: prints.rows[prints.row_of[i]].numpy().tobytes() for i in distinct}
        distinct = _link_identical(components, hashes)
    where = np.array(distinct, dtype=np.int64)
    rows = prints.rows[[prints.row_of[index] for index in distinct]]
    for i, j in pairs_above(rows, prints.least_product(threshold)):
        components.link(where[i], where[j])
    return components.groups()


def _link_identical(components: Components, keys: dict[int, bytes]) -> list[int]:
    """Link the images with equal keys; the first image of every key."""
    first: dict[bytes, int] = {}
    links = [(index, first.setdefault(key, index)) for index, key in keys.items()]
    pairs = np.array([pair for pair in links if pair[0] != pair[1]], dtype=np.int64).reshape(-1, 2)
    components.link(pairs[:, 0], pairs[:, 1])
    return list(first.values())


def _group(
    dataset: ImageSequence, prints: _Fingerprints, members: Int[np.ndarray, " members"]
) -> DuplicateGroup:
    indices = [int(index) for index in members]
    kept = max(indices, key=lambda index: (prints.prints[index].pixels, -index))
    content = prints.prints[kept].content
    copies = tuple(
        Copy(
            index=index,
            name=item_name(dataset, index),
            similarity=prints.similarity(kept, index),
            identical=prints.prints[index].content == content,
        )
        for index in indices
        if index != kept
    )
    return DuplicateGroup(kept, item_name(dataset, kept), copies)
