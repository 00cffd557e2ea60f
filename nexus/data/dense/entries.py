"""Where the bytes of an image or of its truth are: in a file, in a tar archive, in an HDF5 file."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from nexus.data.datasets.extras import optional
from nexus.data.images import file_fault, read_file
from nexus.errors import ImageError


@dataclass(frozen=True)
class FileEntry:
    """A file."""

    path: str

    @property
    def name(self) -> str:
        """The path."""
        return self.path

    def read(self) -> bytes:
        """The file's bytes."""
        return read_file(self.path)


@dataclass(frozen=True)
class TarEntry:
    """A member of an uncompressed tar archive."""

    archive: str
    member: str
    offset: int
    size: int

    @property
    def name(self) -> str:
        """Archive and member."""
        return f"{Path(self.archive).name}/{self.member}"

    def read(self) -> bytes:
        """The member's bytes; `ImageError` where the archive is gone or shorter than it was."""
        try:
            with open(self.archive, "rb") as file:
                file.seek(self.offset)
                data = file.read(self.size)
        except OSError as error:
            raise ImageError(self.name, f"its archive: {file_fault(error)}") from None
        if len(data) < self.size:
            raise ImageError(self.name, "its archive has been cut short since it was opened")
        return data


@dataclass(frozen=True)
class MatlabEntry:
    """One row of an array of a MATLAB 7.3 file, which is HDF5 with the axes the other way round.

    A colour picture becomes BMP, which costs nothing to write or read; numbers become `.npy`.
    """

    path: str
    array: str
    row: int

    @property
    def name(self) -> str:
        """File, array and row."""
        return f"{Path(self.path).name}:{self.array}[{self.row}]"

    def read(self) -> bytes:
        """The row: (3, width, height) bytes as a picture, (width, height) numbers as an array."""
        h5py = optional("h5py", "hdf5", f"{self.path}: a MATLAB 7.3 file")
        try:
            with h5py.File(self.path, "r") as file:
                values = np.asarray(file[self.array][self.row])
        except (OSError, KeyError) as error:
            raise ImageError(self.name, f"cannot be read: {error}") from None
        out = io.BytesIO()
        if values.ndim == 3:
            Image.fromarray(np.ascontiguousarray(values.transpose(2, 1, 0)).astype(np.uint8)).save(out, "BMP")
        else:
            np.save(out, np.ascontiguousarray(values.T))
        return out.getvalue()


Entry = FileEntry | TarEntry | MatlabEntry
"""What can be read: it has a `name` for people; `read()` gives the encoded bytes or raises `ImageError`."""
