"""Every exception that nexus raises on purpose.

::

    NexusError                  something that the user can mend; the command line shows no traceback
    ├── ConfigError             a setting is unknown, of the wrong type, or contradicts another
    ├── DataError               a data set cannot be used (nothing found, too many unreadable files, ...)
    │   └── ImageError          one image cannot be used; carries `.reason`; training skips and lists it
    ├── WeightsError            a weight file is missing, damaged, or does not fit the model
    ├── ExportError             an exported file does not compute what the model does; carries `.result`
    └── RunError                a run folder is in the way, unfinished, finished, or cannot be written
        ├── IllRun              the run was saved and stopped because it is ill (health.policy=stop)
        └── SaidElsewhere       another process of the run has failed, and says why

A message says what is wrong, why, and how to cure it, in that order.
"""

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")


class NexusError(Exception):
    """Base of every error that the user can mend."""


class ConfigError(NexusError):
    """A setting is unknown, of the wrong type, or contradicts another."""


class DataError(NexusError):
    """A data set cannot be used."""


class ImageError(DataError):
    """One image cannot be used.

    `name` is the image's name inside its source, `reason` a short phrase such as "truncated JPEG".
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name = name
        self.reason = reason

    def __reduce__(self) -> tuple:
        """Travel intact from a loader worker to the main process."""
        return type(self), (self.name, self.reason)


class WeightsError(NexusError):
    """A weight file is missing, damaged, or does not fit the model."""


class ExportError(NexusError):
    """An exported file does not compute what the model does, and was not kept.

    `result` holds the comparison, output by output.
    """

    def __init__(self, message: str, result: object) -> None:
        super().__init__(message)
        self.result = result


class RunError(NexusError):
    """A run folder is in the way, unfinished, finished, or cannot be written."""


class IllRun(RunError):
    """A run was saved and stopped because it is fatally ill, as `health.policy=stop` asks."""


class SaidElsewhere(RunError):
    """Another process of the run has failed and tells the user why, so that this one need not.

    `code` is the exit code that it leaves.
    """

    def __init__(self, message: str, code: int = 2) -> None:
        super().__init__(message)
        self.code = code


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The entry of `known` that `name` was probably meant to be, if one is close."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return found[0] if found else None


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """The message for a name that is not among `known`: the nearest one, then all of them."""
    known = sorted(known)
    guess = nearest(name, known)
    hint = f"; did you mean {guess!r}?" if guess else "."
    return f"unknown {what} {name!r}{hint} Known: {', '.join(known)}"


def choose(name: str, table: Mapping[str, T], what: str) -> T:
    """`table[name]`, or a `ConfigError` that names the nearest entry and lists all of them."""
    if name not in table:
        raise ConfigError(unknown(what, name, table))
    return table[name]
