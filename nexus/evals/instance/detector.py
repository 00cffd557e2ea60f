"""Mask R-CNN on one map of patch features: a simple pyramid, then torchvision's proposals and heads.

The pyramid is that of ViTDet (Li et al., arXiv 2203.16527): the last map at 4, 2, 1 and 1/2 times its
resolution, each through a 1 x 1 and a 3 x 3 convolution with a norm over channels. No window attention is
needed, since the backbone stays as it is. Anchors are shares of the frame, so they follow the image's size.
"""

from collections import OrderedDict

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign

from nexus.evals.instance.canvas import UNIT
from nexus.evals.instance.config import InstanceConfig
from nexus.evals.instance.scale import Scale

CELLS = (4, 2, 1, 0.5)
"""Cells of each level along a patch, the finest first."""
ANCHORS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2)
"""Sides of the anchors of each level and of the coarsest one, as parts of the frame."""
RATIOS = (0.5, 1.0, 2.0)


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of a map, place by place."""

    def forward(self, maps: Float[Tensor, "batch chans rows cols"]) -> Float[Tensor, "batch chans rows cols"]:
        """The normed map."""
        return super().forward(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Pyramid(nn.Module):
    """One map at four resolutions or fewer, from `finest` cells a patch on, and another for proposals."""

    def __init__(self, dim: int, width: int, finest: int) -> None:
        super().__init__()
        double = nn.ConvTranspose2d(dim, width, 2, stride=2)
        fourfold = nn.Sequential(
            *(nn.ConvTranspose2d(dim, width, 2, stride=2), ChannelNorm(width), nn.GELU()),
            nn.ConvTranspose2d(width, width, 2, stride=2),
        )
        first = CELLS.index(finest)
        self.names = level_names(finest)
        self.scales = nn.ModuleList([fourfold, double, nn.Identity(), nn.MaxPool2d(2)][first:])
        self.smooth = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(chans, width, 1, bias=False),
                ChannelNorm(width),
                nn.Conv2d(width, width, 3, padding=1, bias=False),
                ChannelNorm(width),
            )
            for chans in (width, width, dim, dim)[first:]
        )

    def forward(self, maps: Float[Tensor, "batch dim rows cols"]) -> dict[str, Tensor]:
        """Maps by level, the finest first; "pool" is the coarsest at half its resolution."""
        levels = [smooth(scale(maps)) for scale, smooth in zip(self.scales, self.smooth, strict=True)]
        found = OrderedDict(zip(self.names, levels, strict=True))
        found["pool"] = F.max_pool2d(levels[-1], 1, stride=2)
        return found


def level_names(finest: int) -> tuple[str, ...]:
    """What torchvision calls the levels, the finest first."""
    return tuple(str(number) for number in range(len(CELLS) - CELLS.index(finest)))


class Detector(nn.Module):
    """From maps of patch features to objects, in the pixels of the frame."""

    def __init__(self, dim: int, classes: int, masks: bool, config: InstanceConfig, scale: Scale) -> None:
        super().__init__()
        self.side = config.grid * UNIT
        self.pyramid = Pyramid(dim, scale.width, scale.finest)
        wired = _wired(classes, masks, config, scale, self.side)
        self.proposals, self.heads = wired.rpn, wired.roi_heads

    def forward(
        self,
        maps: Float[Tensor, "batch dim rows cols"],
        frames: list[tuple[int, int]],
        targets: list[dict[str, Tensor]] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Detections of each image (`boxes`, `labels` from 1, `scores`, `masks`), or losses in training."""
        levels = self.pyramid(maps)
        only_shape = maps.new_zeros(()).expand(len(maps), 1, self.side, self.side)
        regions, first = self.proposals(ImageList(only_shape, frames), levels, targets)
        found, second = self.heads(levels, regions, frames, targets)
        return found, {**first, **second}


def _wired(classes: int, masks: bool, config: InstanceConfig, scale: Scale, side: int) -> FasterRCNN:
    """torchvision's detector, of which the proposals and the heads are used."""
    places = nn.Identity()
    places.out_channels = scale.width  # type: ignore[assignment]
    levels = list(level_names(scale.finest))
    pool = MultiScaleRoIAlign(levels, output_size=7, sampling_ratio=2)
    anchors = ANCHORS[CELLS.index(scale.finest) :]
    settings = {
        "rpn_anchor_generator": AnchorGenerator(
            tuple((share * side,) for share in anchors), (RATIOS,) * len(anchors)
        ),
        "rpn_pre_nms_top_n_train": 2 * scale.proposals,
        "rpn_pre_nms_top_n_test": 2 * scale.proposals,
        "rpn_post_nms_top_n_train": scale.proposals,
        "rpn_post_nms_top_n_test": scale.proposals,
        "box_roi_pool": pool,
        "box_head": TwoMLPHead(scale.width * 7 * 7, scale.box_width),
        "box_predictor": FastRCNNPredictor(scale.box_width, classes + 1),
        "box_score_thresh": config.min_score,
        "box_batch_size_per_image": min(512, scale.proposals),
    }
    if not masks:
        return FasterRCNN(places, **settings)
    return MaskRCNN(
        places,
        **settings,
        mask_roi_pool=MultiScaleRoIAlign(levels, output_size=14, sampling_ratio=2),
        mask_head=MaskRCNNHeads(scale.width, (scale.width,) * 4, 1),
        mask_predictor=MaskRCNNPredictor(scale.width, scale.width, classes + 1),
    )


def total(losses: dict[str, Tensor]) -> Tensor:
    """The sum of all losses of a step."""
    return torch.stack(list(losses.values())).sum()
