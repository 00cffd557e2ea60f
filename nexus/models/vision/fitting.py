"""Images of any size onto whole patches, and patch maps back onto the images.

::

    images, placement = fit_images(images, patch=14, fit="resize")      320×736 → 322×742
    maps = model.get_intermediate_layers(images, 1, reshape=True)[0]    (batch, dim, 23, 53)
    per_pixel = placement.unfit(maps)                                   (batch, dim, 320, 736)

| `fit`    | a side that is no multiple of the patch                       | scale   | sees everything |
|----------|---------------------------------------------------------------|---------|-----------------|
| `resize` | to the nearest multiple, bicubic with antialiasing            | changes | yes             |
| `pad`    | zeros on both sides, the odd pixel at the end                 | kept    | yes             |
| `crop`   | the middle of the image                                       | kept    | no              |
| `strict` | a `ConfigError`                                               | kept    | yes             |

Zero is the mean colour once an image is normalised, so fit after normalising. A backbone that is given
other sizes itself drops what remains at the right and at the bottom, with a warning.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from nexus.errors import ConfigError, unknown

Fit = Literal["resize", "pad", "crop", "strict"]
FITS: tuple[str, ...] = get_args(Fit)
Size = tuple[int, int]
"""Height and width."""


@dataclass(frozen=True)
class Placement:
    """Where an image lies in the frame that a backbone saw: it was scaled, then placed.

    An image of `image` pixels was scaled to `scaled` pixels and laid with its corner at `corner` of a frame
    of `frame` pixels; what sticks out was cut off, what is left is zero. All are (down, across).
    """

    image: Size
    scaled: Size
    corner: Size
    frame: Size
    patch: int

    @property
    def grid(self) -> Size:
        """Patches down and across."""
        return self.frame[0] // self.patch, self.frame[1] // self.patch

    @property
    def region(self) -> tuple[int, int, int, int]:
        """Top, left, bottom and right of the image inside the frame, in pixels of the frame."""
        top, left = max(0, self.corner[0]), max(0, self.corner[1])
        bottom, right = (min(f, c + s) for f, c, s in zip(self.frame, self.corner, self.scaled, strict=True))
        return top, left, bottom, right

    def patch_mask(self) -> Bool[Tensor, "rows cols"]:
        """True where the centre of a patch lies on the image, not on padding."""
        top, left, bottom, right = self.region
        rows, cols = (self.patch * (torch.arange(count) + 0.5) for count in self.grid)
        return ((rows >= top) & (rows <= bottom))[:, None] & ((cols >= left) & (cols <= right))

    def to_pixels(self, points: Float[Tensor, "*points 2"]) -> Float[Tensor, "*points 2"]:
        """From places in the grid, (down, across) in patches, to places in the original image in pixels.

        The centre of the patch in row `r` and column `c` is (r + ½, c + ½). Places that were padded or cut
        off lie outside of the image.
        """
        scale, corner = self._affine(points)
        return (points * self.patch - corner) / scale

    def to_patches(self, points: Float[Tensor, "*points 2"]) -> Float[Tensor, "*points 2"]:
        """From pixels of the original image to places in the grid; undoes `to_pixels`."""
        scale, corner = self._affine(points)
        return (points * scale + corner) / self.patch

    def unfit(
        self, maps: Float[Tensor, "batch chans rows cols"], mode: str = "bilinear"
    ) -> Float[Tensor, "batch chans height width"]:
        """A patch map at the resolution of the original image, `bilinear` or `nearest` between patches.

        Beyond the outermost patch centres the nearest value holds. Pixels that the backbone never saw,
        because they were cut off, are NaN.
        """
        if tuple(maps.shape[-2:]) != self.grid:
            raise ConfigError(
                f"a map of {maps.shape[-2]} × {maps.shape[-1]} patches does not belong to this image, which"
                f" has {self.grid[0]} × {self.grid[1]}; pass the map of the same image"
            )
        rows, cols = (
            torch.arange(side, device=maps.device, dtype=torch.float32) + 0.5 for side in self.image
        )
        pixels = torch.stack(torch.meshgrid(rows, cols, indexing="ij"), dim=-1)
        places = self.to_patches(pixels) / torch.tensor(self.grid, device=maps.device)
        where = (2 * places - 1).flip(-1).expand(len(maps), -1, -1, -1)
        full = F.grid_sample(maps.float(), where, mode=mode, padding_mode="border", align_corners=False)
        unseen = ((places < 0) | (places > 1)).any(-1)
        return full.masked_fill(unseen, torch.nan).to(maps.dtype)

    def _affine(self, like: Tensor) -> tuple[Tensor, Tensor]:
        scale = [scaled / side for scaled, side in zip(self.scaled, self.image, strict=True)]
        return like.new_tensor(scale), like.new_tensor(self.corner)


def place(height: int, width: int, patch: int, fit: str = "resize") -> Placement:
    """How an image of `height` × `width` pixels comes onto whole patches of `patch` pixels.

    Raises `ConfigError` for an unknown `fit`, for `strict` where a side is no multiple, for `crop` where
    a side is shorter than a patch, and for an image without pixels.
    """
    if fit not in FITS:
        raise ConfigError(unknown("fit", fit, FITS))
    image = (height, width)
    if min(image) < 1:
        raise ConfigError(f"an image of {height}×{width} pixels has nothing to look at")
    if fit == "resize":
        frame = (_nearest(height, patch), _nearest(width, patch))
        return Placement(image, frame, (0, 0), frame, patch)
    if fit == "pad":
        frame = (-(-height // patch) * patch, -(-width // patch) * patch)
        return Placement(image, image, _middle(frame, image), frame, patch)
    frame = (height // patch * patch, width // patch * patch)
    if fit == "strict" and frame != image:
        raise ConfigError(
            f"{height}×{width} pixels are not whole patches of {patch} (fit=strict); use fit=resize for"
            f" {_nearest(height, patch)}×{_nearest(width, patch)}, fit=pad to keep scale, or fit=crop"
        )
    if min(frame) < patch:
        raise ConfigError(
            f"of {height}×{width} pixels fit={fit} leaves no patch of {patch}; use fit=pad or fit=resize"
        )
    return Placement(image, image, _middle(frame, image), frame, patch)


def fit_images(
    images: Float[Tensor, "batch chans height width"], patch: int, fit: str = "resize"
) -> tuple[Float[Tensor, "batch chans frame_height frame_width"], Placement]:
    """Normalised images on whole patches, and where they lie there; `place` says how and what it raises."""
    placement = place(images.shape[-2], images.shape[-1], patch, fit)
    return apply_placement(images, placement), placement


def apply_placement(
    images: Float[Tensor, "batch chans height width"], placement: Placement
) -> Float[Tensor, "batch chans frame_height frame_width"]:
    """The frame that `placement` describes, filled with the images; the images themselves where equal."""
    if placement.scaled != placement.image:
        images = F.interpolate(images, size=placement.scaled, mode="bicubic", antialias=True)
    if placement.frame == placement.scaled:
        return images
    (top, left), (height, width), (frame_height, frame_width) = (
        placement.corner,
        placement.scaled,
        placement.frame,
    )
    # A negative amount of padding cuts off.
    return F.pad(images, (left, frame_width - width - left, top, frame_height - height - top))


def fit_sentence(placement: Placement, fit: str) -> str | None:
    """What was done to an image, for people; None where nothing was."""
    if placement.frame == placement.image:
        return None
    (height, width), (rows, cols) = placement.image, placement.frame
    cure = {"resize": " Use fit=pad to keep scale.", "crop": " Use fit=pad to lose nothing."}.get(fit, "")
    return f"{height}×{width} → {rows}×{cols} (fit={fit}).{cure}"


def _nearest(side: int, patch: int) -> int:
    """The nearest multiple, at least one patch; halves go up."""
    return max(1, (2 * side + patch) // (2 * patch)) * patch


def _middle(frame: Size, image: Size) -> Size:
    """The corner of a centred image; the odd pixel, padded or cut, is at the end."""
    down, across = ((f - i) // 2 if f >= i else -((i - f) // 2) for f, i in zip(frame, image, strict=True))
    return down, across
