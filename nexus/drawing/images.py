"""Small pictures: tensors to Pillow images, Pillow images and figures to `data:` addresses for HTML."""

import base64
import io
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Shaped
from PIL import Image
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}


def to_image(pixels: Shaped[Tensor, "chans height width"]) -> Image.Image:
    """An RGB image of uint8 pixels, or of floats in 0..1 (values outside are clipped)."""
    if pixels.dtype != torch.uint8:
        pixels = (pixels.float().nan_to_num().clamp(0, 1) * 255).round().to(torch.uint8)
    if pixels.shape[0] == 1:
        pixels = pixels.expand(3, -1, -1)
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().cpu().numpy(), "RGB")


def denormalized(
    image: Float[Tensor, "chans height width"],
    mean: Float[Tensor, " chans"],
    std: Float[Tensor, " chans"],
) -> Float[Tensor, "chans height width"]:
    """Pixels in 0..1 of an image as a backbone takes it: `image * std + mean`."""
    return (image * std[:, None, None] + mean[:, None, None]).clamp(0, 1)


def colors_to_image(colors: Float[Tensor, "rows cols 3"], scale: int = 1) -> Image.Image:
    """One square of `scale` pixels for each patch colour, with hard edges."""
    image = to_image(colors.permute(2, 0, 1))
    size = (image.width * scale, image.height * scale)
    return image.resize(size, Image.Resampling.NEAREST)


def thumbnail(image: Image.Image, side: int) -> Image.Image:
    """A copy with both sides at most `side` pixels, never enlarged."""
    small = image.convert("RGB")
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    return small


def square(image: Image.Image, side: int) -> Image.Image:
    """The middle square of the image at `side` pixels."""
    edge = min(image.size)
    left, top = (image.width - edge) // 2, (image.height - edge) // 2
    cut = image.convert("RGB").crop((left, top, left + edge, top + edge))
    return cut.resize((side, side), Image.Resampling.LANCZOS)


def data_uri(image: Image.Image, kind: str = "JPEG", quality: int = 85) -> str:
    """The image itself as an address, `data:image/...;base64,...`. `kind` is JPEG, PNG or WEBP."""
    out = io.BytesIO()
    if kind == "PNG":
        image.save(out, "PNG", optimize=True)
    else:
        image.convert("RGB").save(out, kind, quality=quality)
    return _address(FORMATS[kind], out.getvalue())


def smallest_uri(image: Image.Image) -> str:
    """As PNG, which keeps charts sharp, or as WebP where that is less than half of it, as for photographs."""
    drawn, photographed = data_uri(image, "PNG"), data_uri(image, "WEBP", quality=88)
    return photographed if 2 * len(photographed) < len(drawn) else drawn


def figure_uri(figure: "Figure") -> str:
    """A matplotlib figure as an SVG address with a transparent background; the same figure, the same text."""
    import matplotlib

    out = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "nexus"}):
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    return _address("image/svg+xml", out.getvalue())


def _address(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
