"""The embedded data set of the demo."""

from importlib.resources import files
from pathlib import Path

DEMO_NAME = "845 photos of clothes"


def demo_data() -> Path:
    """The folder of the embedded pack: shards, `manifest.csv` and a README with source and licence.

    It lies inside the installed package.
    """
    return Path(str(files("nexus.demo") / "data"))
