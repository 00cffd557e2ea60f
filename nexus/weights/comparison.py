"""Do two networks compute the same features? On real pictures, at the native and at other sizes."""

import io
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import torch
from PIL import Image, ImageOps
from torch import Tensor

from nexus.data.batch import normalize
from nexus.data.datasets import open_dataset
from nexus.data.transforms import as_rgb, to_tensor
from nexus.errors import DataError
from nexus.models.vision import VisionTransformer, ViTConfig
from nexus.weights.loading import Normalization

BOUND = 1e-5
"""Largest difference that float32 arithmetic in another order may make, as a share of the largest feature."""

SIZES = ((224, 224), (98, 98), (322, 238))
"""Heights and widths that are compared besides the native one, brought to whole patches."""

PICTURES = 2
"""Pictures that are compared."""

_TILES, _TILE = 8, 64


@dataclass(frozen=True)
class SizeCheck:
    """Two networks at one image size, in pixels."""

    height: int
    width: int
    cls: float
    """Largest absolute difference in CLS."""
    patches: float
    """Largest absolute difference in the patches."""
    largest: float
    """Largest absolute feature."""

    @property
    def passed(self) -> bool:
        """Whether the difference is rounding: at most `BOUND` of the largest feature, or of 1."""
        return max(self.cls, self.patches) <= BOUND * max(1.0, self.largest)

    def __str__(self) -> str:
        return f"{self.height} × {self.width} px: CLS {self.cls:.1e}, patches {self.patches:.1e}"


@dataclass(frozen=True)
class Move:
    """By how much features move when positions are resized in another way, at one image size."""

    height: int
    width: int
    cls: float
    """Distance between the CLS tokens of both ways over their length, the mean over pictures."""
    patches: float
    """The same of the patches."""

    def __str__(self) -> str:
        return f"{self.height} × {self.width} px: CLS {self.cls:.2%}, patches {self.patches:.2%}"


def sizes_of(config: ViTConfig) -> list[tuple[int, int]]:
    """The native size and `SIZES`, each in whole patches, none twice."""
    patch = config.patch_size
    native = config.img_size // patch * patch
    wanted = [(native, native), *SIZES]
    whole = [tuple(max(1, round(side / patch)) * patch for side in size) for size in wanted]
    return list(dict.fromkeys((height, width) for height, width in whole))


def pictures(source: str | Path | None) -> list[Image.Image]:
    """The first pictures of a data source, or two out of the tiles of photographs that come with nexus."""
    if source is None:
        with tarfile.open(str(files("nexus") / "demo" / "data" / "photos-test.tar")) as tar:
            tiles = [member for member in tar if member.name.endswith(".jpg")]
            halves = tiles[: _TILES * _TILES], tiles[-_TILES * _TILES :]
            return [_mosaic([Image.open(io.BytesIO(_read(tar, tile))) for tile in half]) for half in halves]
    dataset = open_dataset(str(source))
    if not len(dataset):
        raise DataError(f"{source} holds no images to compare on")
    return [dataset[i].image for i in range(min(PICTURES, len(dataset)))]


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None
    return file.read()


def _mosaic(tiles: Sequence[Image.Image]) -> Image.Image:
    canvas = Image.new("RGB", (_TILES * _TILE, _TILES * _TILE))
    for place, tile in enumerate(tiles):
        row, column = divmod(place, _TILES)
        canvas.paste(tile, (column * _TILE, row * _TILE))
    return canvas


def batch(
    images: Sequence[Image.Image],
    height: int,
    width: int,
    *,
    model: VisionTransformer,
    normalization: Normalization,
) -> Tensor:
    """The pictures at this size, normalised for the model; further channels repeat red, green and blue."""
    fitted = [
        to_tensor(ImageOps.fit(as_rgb(image), (width, height), Image.Resampling.BICUBIC)) for image in images
    ]
    pixels = torch.stack(fitted).contiguous()
    channels = range(model.config.in_chans)
    mean, std = (
        torch.tensor([values[channel % len(values)] for channel in channels]) for values in normalization
    )
    return normalize(pixels[:, [channel % 3 for channel in channels]], mean, std)


@torch.no_grad()
def check_size(
    ours: Callable[[Tensor], Tensor], theirs: Callable[[Tensor], Tensor], images: Tensor
) -> SizeCheck:
    """Both networks on the same images."""
    a, b = ours(images).float(), theirs(images).float()
    difference = (a - b).abs()
    height, width = images.shape[-2:]
    cls, patches = float(difference[:, 0].max()), float(difference[:, 1:].max())
    return SizeCheck(height, width, cls, patches, float(a.abs().max()))


@torch.no_grad()
def measure_move(a: VisionTransformer, b: VisionTransformer, images: Tensor) -> Move:
    """Two backbones that differ in how they resize positions, on the same images."""
    before, after = a(images), b(images)
    moved = (after - before).norm(dim=-1) / before.norm(dim=-1)
    height, width = images.shape[-2:]
    return Move(height, width, float(moved[:, 0].mean()), float(moved[:, 1:].mean()))
