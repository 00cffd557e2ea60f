"""Frames of video files, read by OpenCV: `film.mp4?every=10` takes frames 0, 10, 20, ...

A read seeks to its frame. Frames just ahead are reached by decoding on, which is faster than seeking; each
process keeps a few videos open.
"""

import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from nexus.data.batch import Fault
from nexus.data.datasets.address import Address
from nexus.data.datasets.folder import describe
from nexus.data.datasets.labels import Classes, Labels, folder_labels
from nexus.data.datasets.names import Names
from nexus.data.datasets.pixels import PixelDataset
from nexus.data.datasets.searching import files_of_frames
from nexus.data.datasets.source import Source, whole
from nexus.data.images import ImageLimits, open_file
from nexus.errors import DataError, ImageError

VIDEO_ENDINGS = frozenset(
    {".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".mts", ".ts"}
)
_NEAR = 16
_MAX_OPEN = 4

_INHERITED: list[object] = []
"""The videos of a process that this one was forked from: closing them would wait for threads not forked."""


class VideoDataset(PixelDataset):
    """Every k-th frame of some videos: uint8 RGB."""

    def __init__(
        self,
        root: Path,
        names: list[str],
        frames: list[int],
        every: int,
        description: str,
        limits: ImageLimits,
        labels: Labels | None,
        classes: Classes,
        faults: tuple[Fault, ...],
    ) -> None:
        super().__init__(description, limits, labels=labels, classes=classes, faults=faults)
        self.root = str(root.absolute())
        self.files = Names(names)
        self.first = np.cumsum([0, *frames], dtype=np.int64)
        self.every = every
        self._pid = os.getpid()
        self._open: OrderedDict[int, _Video] = OrderedDict()

    def __len__(self) -> int:
        return int(self.first[-1])

    def name(self, i: int) -> str:
        """`film.mp4#000120`: the path and the number of the frame."""
        file, frame = self._find(i)
        return f"{self.files[file]}#{frame:06d}"

    def array(self, i: int) -> Shaped[np.ndarray, "..."]:
        """The frame, or `ImageError`."""
        file, frame = self._find(i)
        if self._pid != os.getpid():
            _INHERITED.append(self._open)
            self._pid, self._open = os.getpid(), OrderedDict()
        name = self.name(i)
        video = self._open.pop(file, None) or _Video(os.path.join(self.root, self.files[file]), name)
        values = video.frame(frame)
        if values is None:
            raise ImageError(name, "the frame cannot be decoded")
        self._open[file] = video
        while len(self._open) > _MAX_OPEN:
            self._open.popitem(last=False)
        return values

    def _find(self, i: int) -> tuple[int, int]:
        file = int(np.searchsorted(self.first, i, side="right")) - 1
        return file, (i - int(self.first[file])) * self.every

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_open": OrderedDict()}


class _Video:
    """An open video and the frame that comes next."""

    def __init__(self, path: str, name: str) -> None:
        import cv2  # takes a while, and most sources do not need it

        self.cv2: Any = cv2
        open_file(path, name).close()  # the reason, where the file cannot be opened
        self.capture = self.cv2.VideoCapture(path)
        if not self.capture.isOpened():
            raise ImageError(name, "not a readable video")
        self.next = 0

    def frames(self) -> int:
        return int(self.capture.get(self.cv2.CAP_PROP_FRAME_COUNT))

    def frame(self, number: int) -> Shaped[np.ndarray, "..."] | None:
        if not 0 <= number - self.next <= _NEAR:
            self.capture.set(self.cv2.CAP_PROP_POS_FRAMES, number)
            self.next = number
        while self.next < number:
            if not self.capture.grab():
                return None
            self.next += 1
        read, values = self.capture.read()
        self.next += 1
        return np.ascontiguousarray(values[:, :, ::-1]) if read else None


def video_source(address: Address) -> Source:
    """A video, or all below a folder; `?every=` takes a frame out of so many."""
    address.only("every")
    text = address.options.get("every", "1")
    if not text.isdigit() or int(text) < 1:
        raise DataError(f"{address.text}: every={text} is not a whole number from 1 on")
    return whole(address.text, lambda limits: _open(address.path, int(text), limits))


def _open(path: Path, every: int, limits: ImageLimits) -> VideoDataset:
    def count(file: Path, name: str) -> int:
        frames = _Video(str(file), name).frames()
        if frames < 1:
            raise ImageError(name, "a video without frames, or of unknown length")
        return -(-frames // every)

    root, kept, frames, faults = files_of_frames(path, VIDEO_ENDINGS, count, "video")
    labels, classes = folder_labels(kept)
    labels = None if labels is None else np.repeat(labels, frames)
    what = f"video {path}" if len(kept) == 1 else f"{len(kept):,} videos in {path}"
    description = describe(what + (f", one frame of {every}" if every > 1 else ""), sum(frames), labels)
    return VideoDataset(root, kept, frames, every, description, limits, labels, classes, faults)
