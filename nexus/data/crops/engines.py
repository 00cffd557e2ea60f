"""Who carries the decisions of a table out on the CPU: libraries, or compiled loops where numba is installed.

The loops resize to the byte as Pillow does, the libraries to a grey level here and there. So which of them a
run uses is a setting of it, and a run that is resumed goes on with it.
"""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nexus.data.crops import colour, geometry
from nexus.data.crops.geometry import Planes
from nexus.data.crops.parameters import CropTable
from nexus.data.picture import Pixels
from nexus.errors import ConfigError
from nexus.log import logger


@dataclass(frozen=True)
class Engine:
    """What makes crops out of pixels."""

    cut: Callable[[Pixels, int, CropTable, Sequence[Planes]], None]
    """`nexus.data.crops.geometry.cut`, or its equal."""
    recolour: Callable[[Sequence[Planes], CropTable, int, int], None]
    """`nexus.data.crops.colour.recolour_all`, or its equal."""


LIBRARIES = Engine(geometry.cut, colour.recolour_all)
"""torch and OpenCV, for every number of channels and every depth."""


def why_not_native() -> str | None:
    """What is in the way of compiled loops, or None where numba can be imported."""
    try:
        importlib.import_module("numba")
    except ImportError as error:
        return f"{error}" if error.name != "numba" else "numba is not installed"
    return None


def engine(*, native: bool) -> Engine:
    """The compiled loops if `native`, else the libraries.

    The loops are compiled by the first call on a machine, which takes seconds and is said; so call it before
    worker processes are started. Raises `ConfigError` where they cannot be had.
    """
    if not native:
        return LIBRARIES
    obstacle = why_not_native()
    if obstacle:
        raise ConfigError(
            f"data.native=true makes crops by compiled loops, but {obstacle}; "
            'pip install "nexus[native]", or start anew with data.native=false, whose crops differ by a grey '
            "level here and there"
        )
    from nexus.data.crops.native.compiling import code_folder

    if not code_folder().is_dir():
        logger.info("compiling the loops that make crops, once on this machine; about ten seconds")
    from nexus.data.crops.native import core

    return Engine(core.cut, core.recolour)
