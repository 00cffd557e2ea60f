"""Several sources one after the other."""

from collections.abc import Sequence

import numpy as np

from nexus.data.batch import Fault, Sample
from nexus.data.datasets.base import ImageDataset
from nexus.data.datasets.labels import Classes, Labels
from nexus.data.images import Stream


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
        return self.parts[part].read(inner)

    def stream(self, i: int) -> Stream:
        """The stream of the source."""
        part, inner = self._find(i)
        return self.parts[part].stream(inner)

    def __getitem__(self, i: int) -> Sample:
        i = self._position(i)
        part, inner = self._find(i)
        sample = self.parts[part][inner]
        return Sample(image=sample.image, name=self.name(i), index=i, label=self.label(i))

    def _find(self, i: int) -> tuple[int, int]:
        part = int(np.searchsorted(self.starts, i, side="right")) - 1
        return part, i - int(self.starts[part])


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
