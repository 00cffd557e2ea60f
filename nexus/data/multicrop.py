"""Multi-crop augmentation: two large and several small random views of one image.

A crop is made in two steps that never mix: all random decisions are drawn from the size of the image
(`nexus.data.crops.parameters`), then pixels are computed. The stages, each crop independently from the whole
image (DINOv2, official code)::

    resized crop (bicubic, antialiased) -> flips -> colour jitter -> grey -> blur -> solarize

The image is decoded once, as small as no crop minds, and each crop is resized straight from it. A contact
sheet shows what comes out::

    python -m nexus.data.multicrop photo.jpg --out sheet.png --preset official --seed 0
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Shaped
from PIL import Image
from torch import Tensor

from nexus.config import build
from nexus.data.batch import normalize
from nexus.data.crops.config import CropConfig
from nexus.data.crops.config import preset as named
from nexus.data.crops.engines import engine
from nexus.data.crops.geometry import choose_shrink, shrunk_by
from nexus.data.crops.parameters import UNIFORMS, CropDrawer, CropParameters, CropTable
from nexus.data.images import ImageLimits
from nexus.data.picture import ArrayPicture, Picture
from nexus.data.transforms import IMAGENET_MEAN, IMAGENET_STD, Channels, as_rgb
from nexus.errors import ConfigError

Before = Callable[[Image.Image], Image.Image]
Room = Callable[[int, np.dtype], tuple[np.ndarray, np.ndarray]]
"""Given channels and type: arrays (crops, chans, side, side) for the global and for the local crops."""
After = Callable[[Tensor], Tensor]

_ANY_SIZE = ImageLimits(min_side=1, max_aspect=float(2**31), max_pixels=2**31)


@dataclass(frozen=True)
class MultiCrops:
    """The crops of one image: bytes, or float32 in 0..1 where the image is deeper. `table` says how."""

    global_crops: Shaped[Tensor, "2 chans side side"]
    local_crops: Shaped[Tensor, "locals chans local_side local_side"]
    table: CropTable

    @property
    def parameters(self) -> tuple[CropParameters, ...]:
        """Every decision: global 1, global 2, local 1, ..."""
        return self.table.rows()


class MultiCropAugmentation:
    """Image -> crops, for one image at a time; safe to copy into loader workers.

    The settings are `config`, or else the named preset; the first five arguments, with the names and the
    order of the seed's constructor, replace single settings. `mean` and `std` normalise what `__call__`
    and the two transforms return.

    `before` is called with each PIL image, and `after` with each crop, a tensor (chans, side, side), before
    `mean` and `std`; what it returns must have the same shape and type. With `recolour=False` the crops are
    cut and flipped, and the rest is left to the device (`nexus.data.crops.device`). `native=True` makes crops
    of bytes by compiled loops (`nexus.data.crops.native`), and raises `ConfigError` where numba is missing.
    """

    def __init__(
        self,
        global_crops_scale: tuple[float, float] | None = None,
        local_crops_scale: tuple[float, float] | None = None,
        local_crops_number: int | None = None,
        global_size: int | None = None,
        local_size: int | None = None,
        *,
        config: CropConfig | None = None,
        preset: str = "official",
        mean: Channels = IMAGENET_MEAN,
        std: Channels = IMAGENET_STD,
        before: Before | None = None,
        after: After | None = None,
        recolour: bool = True,
        native: bool = False,
    ) -> None:
        base = (named(preset) if config is None else config).model_dump()
        given = {
            "global_scale": global_crops_scale,
            "local_scale": local_crops_scale,
            "local_number": local_crops_number,
            "global_size": global_size,
            "local_size": local_size,
        }
        changed = {name: value for name, value in given.items() if value is not None}
        self.config = build(CropConfig, {**base, **changed})
        self.local_crops_number = self.config.local_number
        self.draw = CropDrawer(self.config)
        self.sides = np.array([self.config.view(kind).side for kind in self.draw.kinds])
        self.mean = mean
        self.std = std
        self.before = before
        self.after = after
        self.recolour = recolour
        self.engine = engine(native=native)

    def __call__(self, image: Image.Image) -> list[Float[Tensor, "chans _ _"]]:
        """`[global 1, global 2, local 1, ...]`, normalised float32.

        Random numbers derive from torch's global generator, so `torch.manual_seed` and the seeds
        that a `DataLoader` gives its workers hold.
        """
        if not isinstance(image, Image.Image):
            raise ConfigError(
                f"crops are cut out of PIL images, not of a {type(image).__name__}; pass a data set without "
                "a transform to tensors, and this as its transform"
            )
        seed = int(torch.randint(2**63 - 1, ()).item())
        crops = self.crops(image, np.random.default_rng(seed))
        mean, std = torch.tensor(self.mean), torch.tensor(self.std)
        return [
            *normalize(crops.global_crops, mean, std),
            *normalize(crops.local_crops, mean, std),
        ]

    def global_transform(self, image: Image.Image) -> Float[Tensor, "chans _ _"]:
        """The first global crop of a fresh draw, for a look at it; a draw of its own at each call."""
        return self(image)[0]

    def local_transform(self, image: Image.Image) -> Float[Tensor, "chans _ _"]:
        """The first local crop of a fresh draw."""
        if not self.config.local_number:
            raise ConfigError("there are no local crops: local_crops_number=0")
        return self(image)[2]

    def crops(self, image: Image.Image, rng: np.random.Generator) -> MultiCrops:
        """The crops of one PIL image of any size, as 8-bit RGB; all randomness comes from `rng`."""
        picture = ArrayPicture(np.asarray(as_rgb(image)), "image", _ANY_SIZE)
        return self.of(picture, rng.random((len(self.sides), UNIFORMS)))

    def of(
        self, picture: Picture, uniforms: Float[np.ndarray, "crops uniforms"], room: Room | None = None
    ) -> MultiCrops:
        """The crops of one picture at given uniform numbers; raises `ImageError` if it cannot be read.

        They are written into what `room` returns; without it, into fresh memory.
        """
        if self.before is not None:
            image = self.before(Image.fromarray(picture.pixels()))
            picture = ArrayPicture(np.asarray(as_rgb(image)), picture.name, _ANY_SIZE)
        table = self.draw(picture.size, uniforms)
        shrink = choose_shrink(table.boxes, self.sides)
        pixels = picture.pixels(shrink)
        large, small = (room or self._fresh)(pixels.shape[2], pixels.dtype)
        crops = [*large, *small]
        self.engine.cut(pixels, shrunk_by(pixels, picture.size, shrink), table, crops)
        if self.recolour:
            config = self.config
            self.engine.recolour(crops, table, config.blur_kernel, config.solarize_threshold)
        if self.after:
            for crop in crops:
                crop[:] = self.after(torch.from_numpy(crop)).numpy()
        return MultiCrops(torch.from_numpy(large), torch.from_numpy(small), table)

    def _fresh(self, chans: int, kind: np.dtype) -> tuple[np.ndarray, np.ndarray]:
        large = np.empty((2, chans, *[self.config.global_size] * 2), kind)
        return large, np.empty((self.config.local_number, chans, *[self.config.local_size] * 2), kind)


if __name__ == "__main__":
    import sys

    from nexus.data.contact_sheet import main

    sys.exit(main())
