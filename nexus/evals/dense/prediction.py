"""Predicted labels at the pixels of the truth: windows, several scales, mirrored images."""

from collections.abc import Sequence

from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from nexus.evals.dense.sliding import Look, slide
from nexus.evals.dense.views import Size, whole


def labels_at(
    image: Image.Image,
    size: Size,
    heads: Sequence[nn.Module],
    look: Look,
    resolution: int,
    window: int,
    batch: int,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
) -> list[Int[Tensor, "height width"]]:
    """The best class of each pixel, for each head, on the CPU.

    At several scales, or mirrored as well, the probabilities are averaged, as in the official tests.
    """
    sums: list[Tensor] = []
    several = len(scales) > 1 or flip
    for scale in scales:
        pixels = whole(image, max(window, round(resolution * scale)))
        for mirrored in (False, True) if flip else (False,):
            shown = pixels.flip(-1) if mirrored else pixels
            for number, logits in enumerate(slide(shown, heads, look, window, batch)):
                turned = logits.flip(-1) if mirrored else logits
                found = _resized(turned, size)
                found = found.softmax(0) if several else found
                if len(sums) == number:
                    sums.append(found)
                else:
                    sums[number] += found
    return [total.argmax(0).cpu() for total in sums]


def _resized(logits: Float[Tensor, "chans height width"], size: Size) -> Float[Tensor, "chans rows cols"]:
    return F.interpolate(logits[None], size=size, mode="bilinear", align_corners=False)[0]
