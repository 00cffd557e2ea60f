"""The demo: a whole training, evaluated and pictured, from data that comes with the package."""

from importlib.resources import files
from pathlib import Path

CLASSES = (
    "dress",
    "hat",
    "longsleeve",
    "outwear",
    "pants",
    "shirt",
    "shoes",
    "shorts",
    "skirt",
    "t-shirt",
)
"""Class names of the demo's data set, by label."""


def demo_data() -> Path:
    """The folder of the embedded data set `clothes`: 845 training and 185 test photos, 10 classes.

    The folder holds `clothes-train.tar`, `clothes-test.tar`, `manifest.csv` (columns key, split, file,
    label, class) and a README with source and licence. It lies inside the installed package.
    """
    return Path(str(files("nexus.demo") / "data"))


__all__ = ["CLASSES", "demo_data"]
