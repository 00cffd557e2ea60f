"""From batches in the host's memory to batches on the device, the next one on its way meanwhile."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import fields

import torch
from torch import Tensor

from nexus.data.batch import Batch
from nexus.data.loading.slots import Slots


class Batches(Iterator[Batch], ABC):
    """An iterator that can say whether the next batch is there already."""

    slots: Slots
    """The memory in which the crops lie."""

    @abstractmethod
    def ready(self) -> bool:
        """Whether `next` returns at once."""

    @abstractmethod
    def close(self) -> None:
        """Nothing more is wanted."""


class OnDevice(Iterator[Batch]):
    """The batches on a device.

    With CUDA a batch is copied from page-locked memory by a stream of its own, while the step before is
    computed; the stream that computes waits for the copy, the host for neither. Elsewhere batches are moved
    when they are asked for.
    """

    def __init__(self, batches: Batches, device: torch.device) -> None:
        self.batches = batches
        self.device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._next: Batch | None = None

    def __next__(self) -> Batch:
        batch = self._next if self._next is not None else self._moved(next(self.batches))
        self._next = None
        if self._stream is not None:
            torch.cuda.current_stream(self.device).wait_stream(self._stream)
            _used_by(batch, torch.cuda.current_stream(self.device))
            if self.batches.ready():  # waiting for it here would hold up the step
                self._next = self._moved(next(self.batches))
        return batch

    def _moved(self, batch: Batch) -> Batch:
        if self._stream is None:
            return batch.to(self.device)
        pinned = batch.pin_memory()  # kept by PyTorch until the copy is done
        with torch.cuda.stream(self._stream):
            return pinned.to(self.device, non_blocking=True)

    def close(self) -> None:
        """End the processes behind it."""
        self.batches.close()


def _used_by(batch: Batch, stream: torch.cuda.Stream) -> None:
    """Memory that was allocated on one stream must not be reused while another one needs it."""
    parts = [batch.global_crops, batch.local_crops, *vars(batch.masks).values()]
    for plan in batch.colours or ():
        parts += [getattr(plan, item.name) for item in fields(plan)]
    for part in parts:
        if isinstance(part, Tensor):
            part.record_stream(stream)
