"""DICOM files, every frame an image, windowed as their header or `?window=` says.

Stored values become `slope * x + intercept` (CT: Hounsfield units) and then grey by the window (DICOM PS3.3,
C.11.2.1.2.1). `?window=CENTRE,WIDTH` sets one window for all files; else the file's first window counts, else
the values' own minimum..maximum. MONOCHROME1 is inverted, so that more is brighter; colour is RGB.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from nexus.data.batch import Fault
from nexus.data.datasets.address import Address
from nexus.data.datasets.extras import optional
from nexus.data.datasets.folder import describe
from nexus.data.datasets.labels import Classes, Labels, folder_labels
from nexus.data.datasets.names import Names
from nexus.data.datasets.pixels import PixelDataset, Reading
from nexus.data.datasets.searching import files_of_frames
from nexus.data.datasets.source import Source, whole
from nexus.data.images import ImageLimits, open_file
from nexus.data.picture import ValueRange
from nexus.errors import DataError, ImageError

DICOM_ENDINGS = frozenset({".dcm", ".dicom"})


class DicomDataset(PixelDataset):
    """Frames of DICOM files, in the order of their names."""

    def __init__(
        self,
        root: Path,
        names: list[str],
        frames: list[int],
        window: tuple[float, float] | None,
        description: str,
        limits: ImageLimits,
        labels: Labels | None,
        classes: Classes,
        faults: tuple[Fault, ...],
    ) -> None:
        super().__init__(description, limits, Reading(value_range=(0.0, 1.0)), labels, classes, faults)
        self.root = str(root.absolute())
        self.files = Names(names)
        self.first = np.cumsum([0, *frames], dtype=np.int64)
        self.window = window

    def __len__(self) -> int:
        return int(self.first[-1])

    def name(self, i: int) -> str:
        """The path, and `#3` for the fourth of several frames."""
        file, frame = self._find(i)
        several = self.first[file + 1] - self.first[file] > 1
        return self.files[file] + (f"#{frame}" if several else "")

    def array(self, i: int) -> Shaped[np.ndarray, "..."]:
        """The frame: float32 0..1 after rescale, window and inversion, or uint8 RGB."""
        pydicom = _pydicom()
        file, frame = self._find(i)
        name = self.name(i)
        with open_file(os.path.join(self.root, self.files[file]), name) as stream:
            try:
                header = pydicom.dcmread(stream)
                values = pydicom.pixels.pixel_array(header, index=frame)
                return _shown(header, values, self.window)
            except Exception as error:  # pydicom raises whatever a damaged file provokes
                reason = " ".join(str(error).split()) or type(error).__name__
                raise ImageError(name, f"not a readable DICOM: {reason}") from error

    def value_range(self, i: int) -> ValueRange | None:
        """0..1: the window has been applied; bytes of colour images are kept."""
        return None

    def _find(self, i: int) -> tuple[int, int]:
        file = int(np.searchsorted(self.first, i, side="right")) - 1
        return file, i - int(self.first[file])


def _pydicom() -> Any:
    pydicom = optional("pydicom", "dicom", "reading DICOM")
    optional("pydicom.pixels", "dicom", "reading DICOM")
    return pydicom


def _shown(
    header: Any, values: Shaped[np.ndarray, "..."], window: tuple[float, float] | None
) -> Shaped[np.ndarray, "..."]:
    """What a viewer shows of the stored values."""
    if values.ndim == 3:
        return values.astype(np.uint8) if values.dtype == np.uint8 else _bits(values, header)
    if header.PhotometricInterpretation == "PALETTE COLOR":
        from pydicom.pixels import apply_color_lut

        return _bits(apply_color_lut(values, header), header)
    slope, intercept = (
        float(header.get(key, default)) for key, default in (("RescaleSlope", 1), ("RescaleIntercept", 0))
    )
    x = values.astype(np.float64) * slope + intercept
    centre, width = window or _own_window(header) or _full(x)
    grey = ((x - (centre - 0.5)) / max(width - 1, 1e-9) + 0.5).clip(0, 1)
    if header.PhotometricInterpretation == "MONOCHROME1":
        grey = 1 - grey
    return grey.astype(np.float32)


def _bits(values: Shaped[np.ndarray, "..."], header: Any) -> Shaped[np.ndarray, "..."]:
    """Unsigned colour of any depth as bytes."""
    top = (
        np.iinfo(values.dtype).max
        if header.PhotometricInterpretation == "PALETTE COLOR"
        else 2**header.BitsStored - 1
    )
    return np.rint(values.astype(np.float64) * (255 / top)).clip(0, 255).astype(np.uint8)


def _own_window(header: Any) -> tuple[float, float] | None:
    """The first window of a file."""
    try:
        centre, width = (np.atleast_1d(header[key].value)[0] for key in ("WindowCenter", "WindowWidth"))
        return (float(centre), float(width)) if float(width) >= 1 else None
    except (KeyError, IndexError, TypeError, ValueError):
        return None


def _full(x: Shaped[np.ndarray, "..."]) -> tuple[float, float]:
    """The window that shows minimum..maximum: at its ends the formula gives exactly 0 and 1."""
    low, high = float(x.min()), float(x.max())
    return (low + high) / 2 + 0.5, high - low + 1


def dicom_source(address: Address) -> Source:
    """A DICOM file, or all below a folder; class folders become labels."""
    address.only("window")
    window = None
    if "window" in address.options:
        try:
            centre, width = map(float, address.options["window"].split(","))
            window = centre, width
        except ValueError:
            raise DataError(
                f"{address.text}: window is two numbers, CENTRE,WIDTH, such as window=40,400"
            ) from None
        if width < 1:
            raise DataError(f"{address.text}: the width of a window is at least 1")
    return whole(address.text, lambda limits: _open(address.path, window, limits))


def _open(path: Path, window: tuple[float, float] | None, limits: ImageLimits) -> DicomDataset:
    root, kept, frames, faults = files_of_frames(path, DICOM_ENDINGS, _frames, "DICOM")
    labels, classes = folder_labels(kept)
    labels = None if labels is None else np.repeat(labels, frames)
    description = describe(f"DICOM {path}, {len(kept):,} files", sum(frames), labels)
    return DicomDataset(root, kept, frames, window, description, limits, labels, classes, faults)


def _frames(path: Path, name: str) -> int:
    """How many frames the header promises."""
    pydicom = _pydicom()
    with open_file(path, name) as stream:
        try:
            header = pydicom.dcmread(
                stream, stop_before_pixels=True, specific_tags=["NumberOfFrames", "Rows"]
            )
            if "Rows" not in header:
                raise ImageError(name, "a DICOM without an image")
            return max(int(header.get("NumberOfFrames") or 1), 1)
        except ImageError:
            raise
        except Exception as error:  # as above
            raise ImageError(name, f"not a readable DICOM: {' '.join(str(error).split())}") from error
