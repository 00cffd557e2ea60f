"""Signs of life: how slow but healthy work tells whoever watches it that it is not stuck.

A process that reads images is given a limited time for each (`data.limits.max_seconds`). A download of a
whole shard may take longer, and says so with each piece that arrives.
"""

from collections.abc import Callable


def _nobody() -> None:
    """Nobody watches."""


_listener: Callable[[], None] = _nobody


def sign_of_life() -> None:
    """Something has moved on; costs nothing where nobody watches."""
    _listener()


def listen(listener: Callable[[], None]) -> None:
    """Have `listener` called at each sign of life in this process."""
    global _listener
    _listener = listener
