"""A process that makes batches: takes orders from one pipe, answers through another, writes into slots."""

import os
import pickle
import signal
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Literal

import torch

from nexus.data.alive import listen
from nexus.data.loading.making import BatchMaker
from nexus.data.loading.slots import Bytes, received
from nexus.errors import NexusError

IDLE = -1
"""The index in a worker's pulse while it has no image in hand."""

_LOOK_AFTER_PARENT = 1.0
"""Seconds between two looks whether the parent still lives."""


@dataclass(frozen=True)
class Task:
    """A batch to make."""

    number: int
    positions: tuple[int, ...]
    slot: int
    """Which of the slots that were sent before."""
    refused: Mapping[int, str]


@dataclass(frozen=True)
class NewSlot:
    """A slot's memory comes next."""

    slot: int
    size: int


@dataclass(frozen=True)
class Answer:
    """What became of a task: a `Made`, the bytes that it needs, a `NexusError`, an exception and its text."""

    number: int
    kind: Literal["made", "larger", "error", "bug"]
    content: Any


class _TooSmall(Exception):
    """The slot does not hold the batch."""

    def __init__(self, size: int) -> None:
        self.size = size


def work(tasks: Connection, answers: Connection, pulse: Any, maker: BatchMaker) -> None:
    """Work until the pipe is closed or the parent is gone.

    `pulse` is shared with the parent: the index of the image in hand, and a number that rises with each sign
    of life.
    """
    _leave_signals_to_the_trainer()
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    torch.set_num_threads(1)
    slots: dict[int, Bytes] = {}

    def beat() -> None:
        pulse[1] += 1

    def watch(index: int) -> None:
        pulse[0] = index
        beat()

    listen(beat)
    while True:
        try:
            order = tasks.recv()
            if isinstance(order, NewSlot):
                slots[order.slot] = received(tasks, order.size)
                continue
            answer = _answer(maker, order, slots[order.slot], watch)
            pulse[0] = IDLE
            answers.send_bytes(pickle.dumps(answer))
        except (EOFError, OSError):  # the parent has closed the pipes
            return


def _answer(maker: BatchMaker, task: Task, slot: Bytes, watch: Any) -> Answer:
    def memory(size: int) -> Bytes:
        if size > len(slot):
            raise _TooSmall(size)
        return slot

    try:
        return Answer(task.number, "made", maker.make(task.positions, memory, watch, task.refused))
    except _TooSmall as error:
        return Answer(task.number, "larger", error.size)
    except NexusError as error:
        return Answer(task.number, "error", error)
    except Exception as error:
        text = traceback.format_exc()
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # an exception that cannot travel
            error = RuntimeError(f"{type(error).__name__}: {error}")
        return Answer(task.number, "bug", (error, text))


def _leave_signals_to_the_trainer() -> None:
    """Ctrl-C and a closed terminal reach every process, but only the trainer decides what they mean."""
    for name in ("SIGINT", "SIGHUP", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _end_with(parent: int) -> None:
    """End this process soon after its parent, whatever it is doing: nobody would ever look at it again."""
    while os.getppid() == parent:
        time.sleep(_LOOK_AFTER_PARENT)
    os._exit(1)
