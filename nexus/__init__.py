"""Self-supervised visual features: DINOv2, complete, for anybody with a folder of images.

The doors are `nexus.train`, `nexus.load`, `nexus.embed`, `nexus.evaluate`, `nexus.convert`, `nexus.export`,
`nexus.plan` and `nexus.doctor`; importing the package costs nothing until one of them is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from nexus.checkup import doctor
    from nexus.embedding import embed
    from nexus.evals import evaluate
    from nexus.exporting import export
    from nexus.training import plan, train
    from nexus.weights import convert, load

_DOORS = {
    "convert": "nexus.weights",
    "doctor": "nexus.checkup",
    "embed": "nexus.embedding",
    "evaluate": "nexus.evals",
    "export": "nexus.exporting",
    "load": "nexus.weights",
    "plan": "nexus.training",
    "train": "nexus.training",
}

__all__ = ["__version__", "convert", "doctor", "embed", "evaluate", "export", "load", "plan", "train"]


def __getattr__(name: str) -> Any:
    if name not in _DOORS:
        raise AttributeError(f"module 'nexus' has no attribute {name!r}")
    value = getattr(import_module(_DOORS[name]), name)
    globals()[name] = value
    return value
