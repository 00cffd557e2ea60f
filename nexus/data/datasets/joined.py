"""Several sources one after the other, and mixtures of them in given proportions."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction

import numpy as np

from nexus.data.batch import Fault, Sample
from nexus.data.datasets.base import ImageDataset
from nexus.data.datasets.labels import Classes, Labels
from nexus.data.images import Stream
from nexus.data.order import MixtureOrder, Order
from nexus.data.picture import Look, Picture
from nexus.errors import DataError, ImageError

_SMALLEST_SHARE = Fraction(1, 1_000_000)


class JoinedDataset(ImageDataset):
    """The images of several data sets in order; names begin with the source, equal class names are one."""

    def __init__(self, parts: Sequence[ImageDataset], prefixes: Sequence[str]) -> None:
        labels, classes = _join_labels(parts)
        faults = tuple(
            Fault(f"{prefix}/{fault.name}", fault.reason)
            for part, prefix in zip(parts, prefixes, strict=True)
            for fault in part.faults
        )
        description = "; ".join(part.description for part in parts)
        super().__init__(description, parts[0].limits, labels, classes, faults)
        self.parts = tuple(parts)
        self.prefixes = tuple(prefix.rstrip("/") for prefix in prefixes)
        self.starts = np.cumsum([0, *map(len, parts)], dtype=np.int64)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def name(self, i: int) -> str:
        """`source/name in the source`."""
        part, inner = self._find(i)
        return f"{self.prefixes[part]}/{self.parts[part].name(inner)}"

    def read(self, i: int) -> bytes:
        """The bytes in the source."""
        part, inner = self._find(i)
        with self._naming(i):
            return self.parts[part].read(inner)

    def stored(self, i: int) -> bytes:
        """What the source has stored."""
        part, inner = self._find(i)
        with self._naming(i):
            return self.parts[part].stored(inner)

    def file(self, i: int) -> str | None:
        """The file in the source."""
        part, inner = self._find(i)
        return self.parts[part].file(inner)

    def stream(self, i: int) -> Stream:
        """The stream of the source."""
        part, inner = self._find(i)
        with self._naming(i):
            return self.parts[part].stream(inner)

    def picture(self, i: int) -> Picture:
        """The picture of the source."""
        part, inner = self._find(i)
        with self._naming(i):
            picture = self.parts[part].picture(inner)
        picture.name = self.name(i)
        return picture

    def seen_as(self, look: Look) -> "JoinedDataset":
        """The same sources, each seen that way."""
        other = copy.copy(self)
        other.look = look
        other.parts = tuple(part.seen_as(look) for part in self.parts)
        return other

    def header(self, i: int) -> tuple[int, int, str]:
        """The header in the source."""
        part, inner = self._find(i)
        with self._naming(i):
            return self.parts[part].header(inner)

    def __getitem__(self, i: int) -> Sample:
        i = self._position(i)
        part, inner = self._find(i)
        with self._naming(i):
            sample = self.parts[part][inner]
        return Sample(image=sample.image, name=self.name(i), index=i, label=self.label(i))

    @contextmanager
    def _naming(self, i: int) -> Iterator[None]:
        """Errors with the name that image `i` has here: two sources may use the same one."""
        try:
            yield
        except ImageError as error:
            raise ImageError(self.name(i), error.reason) from error

    def _find(self, i: int) -> tuple[int, int]:
        part = int(np.searchsorted(self.starts, i, side="right")) - 1
        return part, i - int(self.starts[part])


class MixtureDataset(JoinedDataset):
    """Joined sources of which training draws in the proportions of `weights`, small ones again and again.

    Everything that looks at each image once (features, evaluation, scans) sees the joined sources.
    """

    def __init__(
        self,
        parts: Sequence[ImageDataset],
        prefixes: Sequence[str],
        weights: Sequence[Fraction | float],
    ) -> None:
        super().__init__(parts, prefixes)
        exact = [Fraction(str(weight)) for weight in weights]
        if len(exact) != len(parts) or min(exact) < _SMALLEST_SHARE * sum(exact):
            raise DataError(
                f"the weights {', '.join(map(str, weights))} do not fit {len(parts)} sources: one for each, "
                "and none below a millionth of all"
            )
        self.weights = tuple(exact)
        shares = ", ".join(
            f"{100 * float(weight / sum(exact)):.3g} % {part.description}"
            for weight, part in zip(exact, parts, strict=True)
        )
        self.description = f"mixture of {shares}"

    def order(self, seed: int) -> Order:
        """Draws in exact proportion; each source's images once before any comes again."""
        return MixtureOrder([len(part) for part in self.parts], self.weights, seed)


def _join_labels(parts: Sequence[ImageDataset]) -> tuple[Labels | None, Classes]:
    """Labels over the union of the class names, in order of appearance; -1 in unlabelled sources."""
    if all(part.labels is None for part in parts):
        return None, ()
    classes = tuple(dict.fromkeys(name for part in parts for name in part.classes))
    index = {name: i for i, name in enumerate(classes)}
    columns = []
    for part in parts:
        if part.labels is None:
            columns.append(np.full(len(part), -1, dtype=np.int64))
            continue
        renumber = np.array([index[name] for name in part.classes] + [-1], dtype=np.int64)
        columns.append(renumber[part.labels])  # -1 picks the last entry, which is -1
    return np.concatenate(columns), classes
