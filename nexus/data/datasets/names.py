"""Compact lists of strings and the lists of files built on them.

A list of ten million Python strings costs 1 GB in every loader worker, because counting references
copies the pages that a fork shares. One block of bytes does not.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Integer

EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".gif", ".tif", ".tiff", ".jp2", ".j2k"}
    | {".bmp", ".dib", ".ppm", ".pgm", ".pbm", ".pnm", ".ico", ".tga", ".qoi"}
)
"""File name endings, in lower case, that count as images."""


def extension(name: str) -> str:
    """`".jpg"` of `"a/b.seg.JPG"`; empty where there is none."""
    base = name.rpartition("/")[2]
    stem, dot, last = base.rpartition(".")
    return f".{last.lower()}" if dot and stem else ""


def is_image_name(name: str) -> bool:
    """Whether the ending of a file name is that of an image."""
    return extension(name) in EXTENSIONS


def is_hidden(name: str) -> bool:
    """Whether a relative path runs through something hidden, or through macOS's shadow folder."""
    parts = name.split("/")
    return any((part.startswith(".") and part != ".") or part == "__MACOSX" for part in parts)


class Names:
    """An unchangeable list of strings: UTF-8 bytes and where each string ends."""

    def __init__(self, strings: Sequence[str]) -> None:
        # surrogateescape: POSIX file names are bytes and need not be UTF-8
        encoded = [string.encode("utf-8", "surrogateescape") for string in strings]
        self._bytes = b"".join(encoded)
        ends = np.zeros(len(encoded) + 1, dtype=np.int64)
        np.cumsum([len(one) for one in encoded], out=ends[1:])
        self._ends = ends.astype(np.uint32) if ends[-1] < 2**32 else ends

    @classmethod
    def from_table(cls, text: bytes, ends: Integer[np.ndarray, " ends"]) -> "Names":
        """The names whose `table` this is."""
        names = cls(())
        names._bytes, names._ends = text, ends
        return names

    @property
    def table(self) -> tuple[bytes, Integer[np.ndarray, " ends"]]:
        """All strings in one, and where each begins and the last one ends."""
        return self._bytes, self._ends

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, i: int) -> str:
        if not 0 <= i < len(self):
            raise IndexError(f"entry {i} of {len(self)}")
        start, end = self._ends[i : i + 2]
        return self._bytes[start:end].decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(len(self)))
