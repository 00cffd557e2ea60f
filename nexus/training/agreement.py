"""What the processes of a run tell each other before every step, so that all of them do the same."""

from collections.abc import Iterator
from itertools import islice
from signal import Signals

from nexus.data.batch import Batch, Fault
from nexus.data.loading.pool import LoaderError
from nexus.data.replacing import UnusableData
from nexus.distributed import everyones, everyones_numbers
from nexus.errors import DataError, NexusError
from nexus.training.interrupt import Interrupt


class Agreement:
    """Whether to go on, and which images could not be used anywhere.

    A signal or a failure in one process stops all of them before the same step: none is left waiting for a
    collective that the others never call.
    """

    def __init__(self, interrupt: Interrupt) -> None:
        self.interrupt = interrupt
        self.signal: Signals | None = None
        """By which signal any process was asked to stop."""
        self.failure: NexusError | None = None
        """Why any process has no images for the next step."""
        self.faults: list[Fault] = []
        """Images of the step that any process could not use."""

    def next_step(self, stream: Iterator[Batch], micro_batches: int) -> list[Batch]:
        """The micro-batches of the next step; none where all processes stop."""
        batches = self._take(stream, micro_batches)
        mine = [fault for batch in batches for fault in batch.faults]
        if isinstance(self.failure, UnusableData):
            mine += self.failure.faults
        reports = everyones_numbers([self.interrupt.signal or 0, self.failure is not None, len(mine)])
        signals, failures, faults = (list(column) for column in zip(*reports, strict=True))
        self.faults = [fault for part in everyones(mine) for fault in part] if any(faults) else []
        if any(signals):
            self.signal = Signals(max(signals))
        if any(failures):
            self.failure = next(error for error in everyones(self.failure) if error)
        return [] if self.signal or self.failure else batches

    def _take(self, stream: Iterator[Batch], micro_batches: int) -> list[Batch]:
        if self.interrupt:
            return []
        try:
            return list(islice(stream, micro_batches))
        except (LoaderError, DataError) as error:
            self.failure = error
            return []
