"""An image that cannot be used is reported, and a random other one of its source takes its place."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from nexus.data.batch import Fault
from nexus.data.order import REPLACEMENTS, Order, generator
from nexus.errors import DataError, ImageError

T = TypeVar("T")

_MAX_REPLACEMENTS = 100


class UnusableData(DataError):
    """So many images in a row are unusable that the rest probably is too; `faults` names them."""

    def __init__(self, message: str, faults: Sequence[Fault] = ()) -> None:
        super().__init__(message)
        self.faults = tuple(faults)


def first_usable(order: Order, position: int, use: Callable[[int], T]) -> tuple[T, tuple[Fault, ...]]:
    """`use(index)` of the image at `position`, or of the first random other one that raises no `ImageError`.

    The others come from the same source of a mixture, so its proportions hold. Which ones are tried depends
    on seed and position alone. Raises `UnusableData` when too many failed.
    """
    try:
        return use(order[position]), ()
    except ImageError as error:
        faults = [Fault(error.name, error.reason)]
    others, (begin, end) = generator(order.seed, REPLACEMENTS, position), order.source(position)
    while len(faults) < _MAX_REPLACEMENTS:
        try:
            return use(int(others.integers(begin, end))), tuple(faults)
        except ImageError as error:
            faults.append(Fault(error.name, error.reason))
    raise UnusableData(
        f"{_MAX_REPLACEMENTS} images in a row cannot be used; the last was {faults[-1].name} "
        f"({faults[-1].reason}). Names and reasons are in unreadable.csv of the run folder.",
        faults,
    )
