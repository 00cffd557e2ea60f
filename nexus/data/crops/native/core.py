"""The compiled loops as an engine: see `nexus.data.crops.engines`."""

import threading
from collections.abc import Sequence

import numpy as np

from nexus.data.crops import colour as libraries
from nexus.data.crops import geometry
from nexus.data.crops.geometry import Planes
from nexus.data.crops.native import colour, resize
from nexus.data.crops.parameters import CropTable
from nexus.data.picture import Pixels

_KEPT = 2**26
"""Bytes of the largest turned picture whose memory is used again."""


class _Memory(threading.local):
    """Memory of this thread, in which one picture after the other is turned: fresh pages would cost more."""

    def __init__(self) -> None:
        self.bytes = np.empty(0, np.uint8)

    def matrix(self, rows: int, columns: int) -> np.ndarray:
        size = rows * columns
        if size > _KEPT:
            return np.empty((rows, columns), np.uint8)
        if size > len(self.bytes):
            self.bytes = np.empty(size, np.uint8)
        return self.bytes[:size].reshape(rows, columns)


_memory = _Memory()


def cut(pixels: Pixels, shrink: int, table: CropTable, crops: Sequence[Planes]) -> None:
    """`nexus.data.crops.geometry.cut`, for bytes by compiled loops; each crop is C-contiguous."""
    if pixels.dtype != np.uint8:
        geometry.cut(pixels, shrink, table, crops)
        return
    height, width, chans = pixels.shape
    turned = _memory.matrix(*resize.room((width + 1) * chans, height))
    resize.turn(pixels.reshape(height, width * chans), height, width * chans, turned)
    boxes = zip(*(table.boxes / shrink).T.tolist(), strict=True)
    flips = zip(table.flip.tolist(), table.vertical_flip.tolist(), strict=True)
    for crop, box, turns in zip(crops, boxes, flips, strict=True):
        resize.cut(turned, height, width, box, *turns, crop)
    for place in np.flatnonzero(table.transpose).tolist():
        crops[place][:] = crops[place].transpose(0, 2, 1).copy()


def recolour(crops: Sequence[Planes], table: CropTable, kernel: int, threshold: int) -> None:
    """`nexus.data.crops.colour.recolour_all`, for 8-bit RGB by compiled loops; each crop is C-contiguous."""
    if crops[0].dtype != np.uint8 or len(crops[0]) != 3:
        libraries.recolour_all(crops, table, kernel, threshold)
        return
    grey, blur = table.grayscale.tolist(), table.blur.tolist()
    limits = np.where(table.solarize, threshold, 256).tolist()
    columns = zip(crops, table.order, table.factors, grey, blur, limits, strict=True)
    for crop, order, factors, colourless, sigma, limit in columns:
        colour.recolour(crop, order, factors, colourless, sigma, kernel // 2, limit)
