"""One training step of lightly's DINOv2 example, from lightly's parts, put together as it does.

The example is `examples/pytorch/dinov2.py` of lightly 1.6: timm's ViT with LayerScale and a mask token, one
head for CLS tokens and patches, a moving centre, the student twice (global, then local crops), AdamW over all
parameters, drop path 0.1. Written here in our own words. The example's schedules (temperature, momentum,
weight decay) are there for those who say how far the run is; its logging is left out. It has no half
precision: bf16 is autocast around forward and losses.
"""

import copy

import torch
from torch import Tensor, nn

from nexus.data.batch import Batch
from nexus.training.step import autocast

TEACHER_TEMP, TEACHER_TEMP_END, TEMP_WARMUP = 0.04, 0.07, 30 / 50
MOMENTUM = 0.992
WEIGHT_DECAY, WEIGHT_DECAY_END = 0.04, 0.4


class LightlyDINOv2:
    """Student, teacher, losses and optimizer."""

    def __init__(
        self,
        patch_size: int,
        prototypes: int,
        drop_path: float,
        precision: str,
        *,
        img_size: int = 224,
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
    ) -> None:
        from lightly.loss import DINOLoss, IBOTPatchLoss, KoLeoLoss
        from lightly.models.modules import DINOv2ProjectionHead, MaskedVisionTransformerTIMM
        from lightly.models.utils import update_drop_path_rate
        from timm.models.vision_transformer import VisionTransformer

        vit = VisionTransformer(
            img_size=img_size,
            patch_size=patch_size,
            embed_dim=width,
            depth=depth,
            num_heads=heads,
            num_classes=0,
            dynamic_img_size=True,
            init_values=1e-5,
        )
        self.teacher = MaskedVisionTransformerTIMM(vit=vit, antialias=False, pos_embed_initialization="skip")
        self.student = copy.deepcopy(self.teacher)
        update_drop_path_rate(self.student.vit, drop_path_rate=drop_path, mode="uniform")
        self.teacher_head = DINOv2ProjectionHead(input_dim=width, output_dim=prototypes)
        self.student_head = DINOv2ProjectionHead(input_dim=width, output_dim=prototypes)
        for network in (self.teacher, self.teacher_head):
            network.requires_grad_(False).eval()
        self.dino = DINOLoss(output_dim=prototypes)
        self.ibot = IBOTPatchLoss(output_dim=prototypes)
        self.koleo = KoLeoLoss()
        everything = nn.ModuleList([self.teacher, self.student, self.teacher_head, self.student_head])
        self.optimizer = torch.optim.AdamW(everything.parameters(), lr=0.001)
        self.precision = precision
        self.teacher_temp, self.momentum = TEACHER_TEMP, MOMENTUM

    def schedule(self, step: int, steps: int) -> None:
        """The example's values at a step of a run of `steps`."""
        from lightly.utils.scheduler import cosine_schedule, linear_warmup_schedule

        warmup = int(TEMP_WARMUP * steps)
        self.teacher_temp = linear_warmup_schedule(step, warmup, TEACHER_TEMP, TEACHER_TEMP_END)
        self.momentum = cosine_schedule(step, steps, MOMENTUM, 1.0)
        for group in self.optimizer.param_groups:
            group["weight_decay"] = cosine_schedule(step, steps, WEIGHT_DECAY, WEIGHT_DECAY_END)

    def step(self, batch: Batch) -> Tensor:
        """Forward, backward, AdamW, EMA; the loss."""
        from lightly.models.utils import update_momentum

        with autocast(batch.global_crops.device, self.precision):
            loss = self._loss(batch)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        update_momentum(self.student, self.teacher, m=self.momentum)
        update_momentum(self.student_head, self.teacher_head, m=self.momentum)
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
        dino = self.dino(list(teacher_cls.chunk(2)), list(crops), teacher_temp=self.teacher_temp)
        ibot = self.ibot(
            teacher_patches, student_patches, grid.unflatten(1, (side, side)), teacher_temp=self.teacher_temp
        )
        return dino + ibot + 0.1 * sum(self.koleo(part) for part in cls.chunk(2))
