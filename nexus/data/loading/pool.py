"""Processes that make batches, watched: the dead and the stuck are replaced, and the order is kept.

Every process has pipes of its own, so that one that is killed in the middle of a word harms no other. Nothing
is lost with it: its batches are made again by its successor, and come out the same.
"""

import multiprocessing
import pickle
import signal
import time
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any

from nexus.data.batch import Batch
from nexus.data.loading.ahead import Batches
from nexus.data.loading.making import BatchMaker, Made
from nexus.data.loading.slots import Slot, Slots
from nexus.data.loading.worker import IDLE, Answer, NewSlot, Task, work
from nexus.errors import RunError
from nexus.log import logger

AHEAD = 3
"""Batches for each worker that are ordered before they are asked for."""

MAX_DEATHS = 8
"""Dead workers after which the run stops; a thousand batches without one are forgiven everything."""

_FORGIVEN_AFTER = 1000
_DEATHS_OF_AN_IMAGE = 2
_POLL = 0.5
"""Seconds between two looks at processes that say nothing."""


class LoaderError(RunError):
    """The processes that read images died; the state of the run is sound."""


@dataclass
class _Order:
    """A batch that is being made."""

    number: int
    positions: tuple[int, ...]
    slot: Slot


@dataclass
class _Worker:
    """A process and what is known of it."""

    number: int
    process: Any
    tasks: Connection
    answers: Connection
    pulse: Any
    orders: dict[int, _Order] = field(default_factory=dict)
    """Given to it and not answered, oldest first."""
    slots: set[int] = field(default_factory=set)
    """Numbers of the slots that it knows."""
    seen: tuple[int, int] = (IDLE, 0)
    watched: float = 0.0
    """Seconds since `seen` has changed, as far as anybody looked."""


class WorkerPool(Batches):
    """Batches of `lists` of positions in their order, made by processes; close it to end them.

    Raises what the makers raise, and `LoaderError` after `MAX_DEATHS`. An image on which a worker spends
    more than `max_seconds`, or that kills two of them, is refused: a fault like any other.
    """

    def __init__(
        self, maker: BatchMaker, lists: Iterable[Sequence[int]], *, workers: int, max_seconds: float
    ) -> None:
        self.maker = maker
        self.max_seconds = max_seconds
        self.slots = Slots(shared=True)
        self.refused: dict[int, str] = {}
        self.deaths = 0
        self._fatal: Counter[int] = Counter()
        self._upcoming = enumerate(lists)
        self._queue: deque[int] = deque()
        self._done: dict[int, tuple[Answer, Slot]] = {}
        self._since_death = 0
        self._looked = time.monotonic()
        self._workers: list[_Worker] = []
        try:
            for number in range(workers):
                self._workers.append(self._hire(number))
            self._order_more()
        except BaseException:
            self.close()
            raise

    def __next__(self) -> Batch:
        self._order_more()
        if not self._queue:
            self.close()
            raise StopIteration
        try:
            while self._queue[0] not in self._done:
                self._look(_POLL)
            answer, slot = self._done.pop(self._queue.popleft())
            self._since_death += 1
            if self._since_death > _FORGIVEN_AFTER:
                self.deaths = 0
            made = _made(answer)
        except BaseException:
            self.close()
            raise
        self._order_more()
        return made.batch(self.slots.lend(slot))

    def ready(self) -> bool:
        """Whether the next batch can be had without waiting."""
        if self._queue and self._queue[0] not in self._done:
            self._look(0)
        return bool(self._queue) and self._queue[0] in self._done

    def close(self) -> None:
        """End the processes at once; what they were making is not wanted any more."""
        workers, self._workers = self._workers, []
        for worker in workers:
            worker.process.kill()
        for worker in workers:
            self._bury(worker)
        self._queue.clear()
        self._done.clear()

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_workers", None):
            self.close()

    # -- giving orders ----------------------------------------------------------------------------

    def _order_more(self) -> None:
        while len(self._queue) < AHEAD * len(self._workers):
            found = next(self._upcoming, None)
            if found is None:
                return
            number, positions = found
            slot = self.slots.take(self.maker.guess(len(positions)))
            worker = min(self._workers, key=lambda worker: len(worker.orders))
            self._queue.append(number)
            self._give(worker, _Order(number, tuple(positions), slot))

    def _give(self, worker: _Worker, order: _Order) -> None:
        worker.orders[order.number] = order
        try:
            if order.slot.number not in worker.slots:
                worker.slots.add(order.slot.number)
                worker.tasks.send(NewSlot(order.slot.number, order.slot.size))
                order.slot.send(worker.tasks, worker.process.pid)
            worker.tasks.send(Task(order.number, order.positions, order.slot.number, self.refused))
        except OSError:  # it is dead; `_look` finds that out, and its successor gets the order
            return

    # -- looking after the workers ----------------------------------------------------------------

    def _look(self, timeout: float) -> None:
        """Take answers; replace who is dead or stuck."""
        ready = set(wait([worker.answers for worker in self._workers], timeout))
        now = time.monotonic()
        # A process that was stopped for hours, or had other work, has not watched the workers meanwhile.
        passed, self._looked = min(now - self._looked, 2 * _POLL), now
        for worker in list(self._workers):
            if worker.answers in ready:
                self._listen(worker)
            elif self._stuck(worker, passed):
                self._refuse_image(worker)

    def _listen(self, worker: _Worker) -> None:
        try:
            answer: Answer = pickle.loads(worker.answers.recv_bytes())
        except (EOFError, OSError):
            self._died(worker)
            return
        order = worker.orders.pop(answer.number)
        if answer.kind == "larger":
            self._give(worker, _Order(order.number, order.positions, self.slots.take(answer.content)))
        else:
            self._done[answer.number] = answer, order.slot

    def _stuck(self, worker: _Worker, passed: float) -> bool:
        pulse = (int(worker.pulse[0]), int(worker.pulse[1]))
        if pulse != worker.seen or pulse[0] == IDLE:
            worker.seen, worker.watched = pulse, 0.0
        else:
            worker.watched += passed
        return worker.watched > self.max_seconds

    def _refuse_image(self, worker: _Worker) -> None:
        index = int(worker.pulse[0])
        reason = f"not read within data.limits.max_seconds={self.max_seconds:g}"
        self.refused = {**self.refused, index: reason}
        logger.warning("%s: %s; its worker is replaced", self.maker.dataset.name(index), reason)
        self._replace(worker)

    def _died(self, worker: _Worker) -> None:
        worker.process.join(1)
        how, index = _end_of(worker.process.exitcode), int(worker.pulse[0])
        at = "between two images" if index == IDLE else f"reading {self.maker.dataset.name(index)}"
        self.deaths, self._since_death = self.deaths + 1, 0
        name = f"worker {worker.number} (process {worker.process.pid}) died {how} {at}"
        if self.deaths > MAX_DEATHS:
            raise LoaderError(
                f"a process that reads images died, and {MAX_DEATHS} before it: {name}. Most often memory "
                "ran out: lower data.workers."
            )
        if index != IDLE:
            self._fatal[index] += 1
            if self._fatal[index] >= _DEATHS_OF_AN_IMAGE:
                reason = f"reading it ended {_DEATHS_OF_AN_IMAGE} processes, the last one {how}"
                self.refused = {**self.refused, index: reason}
        logger.warning("%s; it is replaced (%d of at most %d)", name, self.deaths, MAX_DEATHS)
        self._replace(worker)

    def _replace(self, worker: _Worker) -> None:
        """Another process makes what this one has not finished."""
        worker.process.kill()
        self._bury(worker)
        successor = self._hire(worker.number)
        self._workers[self._workers.index(worker)] = successor
        for order in worker.orders.values():
            self._give(successor, order)

    def _hire(self, number: int) -> _Worker:
        context = multiprocessing.get_context()
        tasks, their_tasks = context.Pipe()
        answers, their_answers = context.Pipe(duplex=False)
        pulse = context.RawArray("q", [IDLE, 0])
        process = context.Process(  # type: ignore[attr-defined]
            target=work, args=(their_tasks, their_answers, pulse, self.maker), daemon=True
        )
        try:
            process.start()
        except OSError as error:
            raise LoaderError(
                f"no process that reads images can be started: {error}; lower data.workers"
            ) from error
        their_tasks.close()
        their_answers.close()  # now a worker that ends is an end of file
        return _Worker(number, process, tasks, answers, pulse)

    def _bury(self, worker: _Worker) -> None:
        worker.tasks.close()
        worker.answers.close()
        worker.process.join(2)  # one that hangs in the kernel, on a dead file server, cannot be waited for


def _made(answer: Answer) -> Made:
    if answer.kind == "error":
        raise answer.content
    if answer.kind == "bug":
        error, text = answer.content
        raise error from RuntimeError(f"in a process that reads images:\n{text}")
    made: Made = answer.content
    return made


def _end_of(code: int | None) -> str:
    """How a process ended, in words."""
    if code is None or code >= 0:
        return f"with exit code {code}"
    try:
        return f"of {signal.Signals(-code).name}"
    except ValueError:
        return f"of signal {-code}"
