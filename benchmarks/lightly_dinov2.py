"""One training step of lightly's DINOv2 example, from lightly's parts, put together as it does.

The example is `examples/pytorch/dinov2.py` of lightly 1.6: timm's ViT with LayerScale and a mask token, one
head for CLS tokens and patches, a moving centre, the student twice (global, then local crops), AdamW over all
parameters, drop path 0.1. Written here in our own words; what is left out costs nothing worth measuring
(schedules, logging). The example has no half precision: bf16 is autocast around forward and losses.
"""

import copy

import torch
from torch import Tensor, nn

from nexus.data.batch import Batch
from nexus.training.step import autocast

TEACHER_TEMP = 0.04
MOMENTUM = 0.992


class LightlyDINOv2:
    """Student, teacher, losses and optimizer."""

    def __init__(self, patch_size: int, prototypes: int, drop_path: float, precision: str) -> None:
        from lightly.loss import DINOLoss, IBOTPatchLoss, KoLeoLoss
        from lightly.models.modules import DINOv2ProjectionHead, MaskedVisionTransformerTIMM
        from lightly.models.utils import update_drop_path_rate
        from timm.models.vision_transformer import VisionTransformer

        vit = VisionTransformer(
            patch_size=patch_size,
            embed_dim=384,
            depth=12,
            num_heads=6,
            num_classes=0,
            dynamic_img_size=True,
            init_values=1e-5,
        )
        self.teacher = MaskedVisionTransformerTIMM(vit=vit, antialias=False, pos_embed_initialization="skip")
        self.student = copy.deepcopy(self.teacher)
        update_drop_path_rate(self.student.vit, drop_path_rate=drop_path, mode="uniform")
        self.teacher_head = DINOv2ProjectionHead(input_dim=384, output_dim=prototypes)
        self.student_head = DINOv2ProjectionHead(input_dim=384, output_dim=prototypes)
        for network in (self.teacher, self.teacher_head):
            network.requires_grad_(False).eval()
        self.dino = DINOLoss(output_dim=prototypes)
        self.ibot = IBOTPatchLoss(output_dim=prototypes)
        self.koleo = KoLeoLoss()
        everything = nn.ModuleList([self.teacher, self.student, self.teacher_head, self.student_head])
        self.optimizer = torch.optim.AdamW(everything.parameters(), lr=0.001)
        self.precision = precision

    def step(self, batch: Batch) -> Tensor:
        """Forward, backward, AdamW, EMA; the loss."""
        from lightly.models.utils import update_momentum

        with autocast(batch.global_crops.device, self.precision):
            loss = self._loss(batch)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        update_momentum(self.student, self.teacher, m=MOMENTUM)
        update_momentum(self.student_head, self.teacher_head, m=MOMENTUM)
        return loss.detach()

    def _loss(self, batch: Batch) -> Tensor:
        grid = batch.masks.grid
        side = int(grid.shape[1] ** 0.5)
        mask = torch.cat([grid.new_zeros(len(grid), 1), grid], dim=1)
        with torch.no_grad():
            tokens = self.teacher.encode(batch.global_crops)
            teacher_cls = self.teacher_head(tokens[:, 0])
            teacher_patches = self.teacher_head(tokens[mask])
        tokens = self.student.encode(batch.global_crops, mask=mask)
        cls = tokens[:, 0]
        student_cls = self.student_head(cls)
        student_patches = self.student_head(tokens[mask])
        local = self.student_head(self.student.encode(batch.local_crops, mask=None)[:, 0])
        crops = torch.cat([student_cls, local]).chunk(2 + batch.local_count)
        dino = self.dino(list(teacher_cls.chunk(2)), list(crops), teacher_temp=TEACHER_TEMP)
        ibot = self.ibot(
            teacher_patches, student_patches, grid.unflatten(1, (side, side)), teacher_temp=TEACHER_TEMP
        )
        return dino + ibot + 0.1 * sum(self.koleo(part) for part in cls.chunk(2))
