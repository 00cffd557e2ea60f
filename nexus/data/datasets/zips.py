"""Images in a `.zip`."""

import os
import zipfile
from collections import Counter
from pathlib import Path
from typing import cast

from nexus.data.datasets.base import ImageDataset
from nexus.data.datasets.folder import describe
from nexus.data.datasets.labels import Classes, Labels, folder_labels, without_outer_folder
from nexus.data.datasets.names import Names, extension, is_hidden, is_image_name
from nexus.data.images import ImageLimits, Stream, file_fault
from nexus.errors import DataError, ImageError


class ZipDataset(ImageDataset):
    """Members of one zip archive, in the order of their names."""

    def __init__(
        self,
        path: Path,
        names: list[str],
        description: str,
        limits: ImageLimits,
        labels: Labels | None,
        classes: Classes,
    ) -> None:
        super().__init__(description, limits, labels, classes)
        self.path = str(path.absolute())
        self.names = Names(names)
        self._archive: zipfile.ZipFile | None = None
        self._pid = os.getpid()

    def __len__(self) -> int:
        return len(self.names)

    def name(self, i: int) -> str:
        """The member's name."""
        return self.names[i]

    def file(self, i: int) -> str | None:
        """The archive."""
        return self.path

    def read(self, i: int) -> bytes:
        """The decompressed member, or `ImageError`: damaged, encrypted, the archive gone."""
        with self.stream(i) as stream:
            try:
                return stream.read()
            except Exception as error:  # zlib, lzma, bz2 and zipfile errors, OSError, MemoryError
                raise ImageError(self.name(i), f"damaged in the zip: {error}") from error

    def stream(self, i: int) -> Stream:
        """The member, decompressed as far as it is read."""
        try:
            return cast(Stream, self._zip().open(self.name(i)))
        except RuntimeError as error:  # "password required for extraction"
            raise ImageError(self.name(i), f"encrypted or in use: {error}") from error
        except OSError as error:
            raise ImageError(self.name(i), f"its zip: {file_fault(error)}") from error
        except Exception as error:
            raise ImageError(self.name(i), f"unreadable in the zip: {error}") from error

    def _zip(self) -> zipfile.ZipFile:
        """This process's own handle: a shared file position would mix up the bytes of two processes."""
        if self._archive is None or self._pid != os.getpid():
            self._archive, self._pid = zipfile.ZipFile(self.path), os.getpid()
        return self._archive

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_archive": None}


def open_zip(path: Path, limits: ImageLimits) -> ZipDataset:
    """All images of a zip; class folders, below a single outer folder too, become labels."""
    try:
        with zipfile.ZipFile(path) as archive:
            files = sorted({info.filename for info in archive.infolist() if not info.is_dir()})
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise DataError(
            f"{path} is not a complete zip archive ({error}); its table of contents is at the end, "
            "so a broken-off download cannot be used: fetch it again"
        ) from None
    names = [name for name in files if is_image_name(name) and not is_hidden(name)]
    if not names:
        endings = Counter(extension(name) or "no extension" for name in files)
        kinds = ", ".join(f"{n:,} {ending}" for ending, n in endings.most_common(6))
        raise DataError(f"no images in {path}, but {len(files):,} other files ({kinds or 'it is empty'})")
    labels, classes = folder_labels(without_outer_folder(names))
    description = describe(f"zip {path}", len(names), labels, len(files) - len(names))
    return ZipDataset(path, names, description, limits, labels, classes)
