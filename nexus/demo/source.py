"""The embedded data set of the demo: tiles of ten photographs, and the photographs put together again."""

import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from PIL import Image

from nexus.data.datasets import ImageDataset, open_dataset
from nexus.errors import ConfigError, unknown

DEMO_NAME = "2,448 tiles of ten photographs"
TILE = 64
PLACE = re.compile(r"(?P<photo>[a-z-]+)_r(?P<row>\d+)_c(?P<column>\d+)")


@dataclass(frozen=True)
class Mosaic:
    """One photograph as the tiles it was cut into: their rows in the data set, row by row of the photo."""

    tiles: tuple[int, ...]
    rows: int
    columns: int


def demo_data() -> Path:
    """The folder of the embedded pack: shards, `manifest.csv` and a README with source and licence.

    It lies inside the installed package.
    """
    return Path(str(files("nexus.demo") / "data"))


def mosaic(dataset: ImageDataset, photo: str) -> Mosaic:
    """Which tiles of the demo's images (both splits) make the photograph of this class."""
    if photo not in dataset.classes:
        raise ConfigError(unknown("photo", photo, dataset.classes))
    places = {}
    for index in range(len(dataset)):
        match = PLACE.match(dataset.name(index))
        if match and match["photo"] == photo:
            places[int(match["row"]), int(match["column"])] = index
    rows, columns = (1 + max(place[axis] for place in places) for axis in (0, 1))
    assert len(places) == rows * columns
    return Mosaic(tuple(places[place] for place in sorted(places)), rows, columns)


def whole_photo(photo: str) -> Image.Image:
    """The photograph of a class, put together from its tiles: 1,152 pixels on the longer side."""
    dataset = open_dataset(demo_data(), None)
    plan = mosaic(dataset, photo)
    canvas = Image.new("RGB", (plan.columns * TILE, plan.rows * TILE))
    for place, index in enumerate(plan.tiles):
        row, column = divmod(place, plan.columns)
        canvas.paste(dataset[index].image, (column * TILE, row * TILE))
    return canvas
