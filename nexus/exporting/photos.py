"""Real pixels to try an export on: the user's images, or those that come with the package."""

import math
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from nexus.data.datasets import ImageDataset, open_dataset
from nexus.data.transforms import as_rgb, to_tensor
from nexus.errors import DataError, ImageError

TILE = 64
"""Side of a packaged tile, in pixels."""


def photos(source: str | Path | None, first: int, count: int, height: int, width: int, chans: int) -> Tensor:
    """`count` photos as uint8 (count, chans, height, width), beginning with number `first`, going round.

    An image of `source` is scaled to cover the size and cut in the middle. Without a source each picture
    is laid out of packaged photo tiles that follow each other. More channels repeat red, green, blue.
    """
    dataset = _opened(None if source is None else str(source))
    picture = _collage if source is None else _covering
    images = [picture(dataset, first + number, height, width) for number in range(count)]
    rgb = torch.stack([to_tensor(image) for image in images])
    return rgb[:, [chan % 3 for chan in range(chans)]].contiguous()


@lru_cache(maxsize=2)
def _opened(source: str | None) -> ImageDataset:
    return open_dataset(str(files("nexus") / "demo" / "data") if source is None else source)


def _collage(dataset: ImageDataset, number: int, height: int, width: int) -> Image.Image:
    """Tiles from a place of their own, left to right and down."""
    rows, cols = math.ceil(height / TILE), math.ceil(width / TILE)
    canvas = Image.new("RGB", (width, height))
    for place in range(rows * cols):
        tile = dataset[(number * 97 + place) % len(dataset)].image
        canvas.paste(as_rgb(tile), (place % cols * TILE, place // cols * TILE))
    return canvas


def _covering(dataset: ImageDataset, number: int, height: int, width: int) -> Image.Image:
    """The next readable image, scaled to cover the size, its middle."""
    for step in range(len(dataset)):
        try:
            image = as_rgb(dataset[(number + step) % len(dataset)].image)
        except ImageError:
            continue
        scale = max(height / image.height, width / image.width)
        size = (max(width, round(image.width * scale)), max(height, round(image.height * scale)))
        left, top = (size[0] - width) // 2, (size[1] - height) // 2
        resized = image.resize(size, Image.Resampling.BICUBIC)
        return resized.crop((left, top, left + width, top + height))
    raise DataError(f"no image of {dataset.description} can be read; pass other images")
