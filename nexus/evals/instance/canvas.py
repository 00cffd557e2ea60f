"""Images of any shape on one square canvas of whole patches, and objects in the frame of the detector.

The detector counts 16 pixels a patch, whatever the patch is: strides of the pyramid are then 4, 8, 16, 32 for
patches of 8, 14 or 16, and anchors are the same shares of the image.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from nexus.data.datasets import ImageDataset
from nexus.data.transforms import to_tensor
from nexus.errors import ImageError
from nexus.evals.instance.extra import mask_tools
from nexus.evals.instance.objects import Objects

UNIT = 16
"""Frame pixels of a patch."""


@dataclass(frozen=True)
class Canvas:
    """One image as the backbone is shown it."""

    pixels: UInt8[Tensor, "chans side side"]
    """The resized image in the upper left corner, grey elsewhere."""
    size: tuple[int, int]
    """Height and width of the image itself."""
    frame: tuple[int, int]
    """Height and width of the resized image in the pixels of the frame."""

    @property
    def scale(self) -> tuple[float, float]:
        """Frame pixels for one of the image, across and down."""
        return self.frame[1] / self.size[1], self.frame[0] / self.size[0]


def canvas(dataset: ImageDataset, row: int, grid: int, patch: int) -> Canvas | None:
    """An image so that its longer side has `grid` patches; None where it cannot be read."""
    try:
        image = dataset[row].image
    except ImageError:
        return None
    side = grid * patch
    longer = max(image.size)
    width, height = (max(1, round(edge * side / longer)) for edge in image.size)
    pixels = torch.full((3, side, side), 124, dtype=torch.uint8)
    pixels[:, :height, :width] = to_tensor(
        image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    )
    frame = (max(1, round(height * UNIT / patch)), max(1, round(width * UNIT / patch)))
    return Canvas(pixels, (image.height, image.width), frame)


def target(objects: Objects, shown: Canvas, mirrored: bool, with_masks: bool) -> dict[str, Tensor]:
    """What torchvision's detectors learn from: boxes in the frame, labels from 1, masks of the frame."""
    rows = objects.trained_on()
    across, down = shown.scale
    boxes = torch.from_numpy(objects.boxes[rows]) * torch.tensor([across, down, across, down])
    width = shown.frame[1]
    if mirrored:
        boxes = torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], dim=1)
    found = {"boxes": boxes.float(), "labels": torch.from_numpy(objects.labels[rows]) + 1}
    if with_masks:
        masks = np.zeros((len(rows), *shown.frame), dtype=np.uint8)
        for at, row in enumerate(rows):
            assert objects.masks is not None
            whole = Image.fromarray(mask_tools().decode(objects.masks[row]))
            masks[at] = np.asarray(whole.resize((width, shown.frame[0]), Image.Resampling.NEAREST))
        found["masks"] = torch.from_numpy(masks[:, :, ::-1].copy() if mirrored else masks)
    return found
