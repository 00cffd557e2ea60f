"""DINOv2: a student learns to predict an averaged copy of itself (the teacher) from other crops.

Oquab et al., "DINOv2: Learning Robust Visual Features without Supervision" (arXiv 2304.07193). One step::

    targets = teacher(global crops, unmasked)               # probabilities over K prototypes
    logits  = student(global crops, some patches masked), student(local crops)
    loss    = DINO(CLS logits, CLS targets of the other crops)
            + iBOT(logits of the masked patches, targets of the same patches)
            + 0.1 · (KoLeo(crop 1) + KoLeo(crop 2))
    optimizer step;  teacher ← m · teacher + (1 - m) · student
"""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from nexus.config import build
from nexus.data.batch import Batch
from nexus.data.masking import MaskConfig
from nexus.data.multicrop import MultiCropAugmentation
from nexus.distributed import all_gather, everyones_numbers
from nexus.errors import ConfigError, unknown
from nexus.losses import (
    Centering,
    Logits,
    Prototypes,
    Targets,
    Term,
    build_centering,
    likeness_of,
    pair_weights,
    prototype_loss,
    spread_of,
)
from nexus.models.ssl.base import BaseSSL
from nexus.models.ssl.crops import batch_of
from nexus.models.ssl.head import DINOv2Head
from nexus.models.ssl.objective import Asked, ObjectiveConfig, Spread, koleo_and_slope, koleo_over_all
from nexus.models.ssl.passes import Network
from nexus.models.vision import ViTConfig, architecture

__all__ = ["DINOv2", "DINOv2Head", "MultiCropAugmentation", "ObjectiveConfig"]

_TEMP_RULES = ("official", "linear", "seed")


class DINOv2(BaseSSL):
    """Student and teacher, their heads, and the loss between them.

    The keywords of the constructor are the seed document's; `objective` and `masks` hold the rest. The
    trainer builds it with `from_config`. `epoch`, `total_epochs` and the schedule methods serve loops
    that count epochs; the trainer passes its own values for each step.
    """

    def __init__(
        self,
        backbone: str = "vit_base_patch14",
        img_size: int = 224,
        patch_size: int | None = None,
        embed_dim: int | None = None,
        depth: int | None = None,
        num_heads: int | None = None,
        out_dim: int | None = None,
        student_temp: float | None = None,
        teacher_temp_schedule: tuple[float, float] = (0.04, 0.07),
        warmup_teacher_temp_epochs: int = 30,
        center_momentum: float | None = None,
        ema_momentum_schedule: tuple[float, float] = (0.992, 1.0),
        local_crops_number: int = 8,
        local_crops_scale: tuple[float, float] = (0.05, 0.32),
        global_crops_scale: tuple[float, float] = (0.32, 1.0),
        *,
        total_epochs: int = 100,
        teacher_temp_rule: Literal["official", "linear", "seed"] = "official",
        objective: ObjectiveConfig | None = None,
        masks: MaskConfig | None = None,
        vit: ViTConfig | None = None,
    ) -> None:
        super().__init__()
        sizes = {
            "patch_size": patch_size,
            "embed_dim": embed_dim,
            "depth": depth,
            "num_heads": num_heads,
        }
        changes = {name: value for name, value in sizes.items() if value is not None}
        vit = vit or architecture(backbone, img_size=img_size, **changes)
        shortcuts = {
            "out_dim": out_dim,
            "student_temp": student_temp,
            "center_momentum": center_momentum,
        }
        updates = {name: value for name, value in shortcuts.items() if value is not None}
        base = objective or ObjectiveConfig()
        self.objective = build(ObjectiveConfig, {**base.model_dump(), **updates})
        self.masks = masks or MaskConfig()
        student = Network.build(vit, self.objective)
        self.student_backbone, self.student_head = student.backbone, student.head
        self.student_patch_head = student.patch_head
        teacher = student.teacher()
        self.teacher_backbone, self.teacher_head = teacher.backbone, teacher.head
        self.teacher_patch_head = teacher.patch_head
        kind, momentum = self.objective.centering, self.objective.center_momentum
        self.centering = build_centering(kind, self.objective.out_dim, momentum)
        patch_prototypes = self.objective.patch_out_dim if student.patch_head else None
        self.patch_centering = build_centering(kind, patch_prototypes or self.objective.out_dim, momentum)
        self.student_temp = self.objective.student_temp
        self.center_momentum = self.objective.center_momentum
        self.teacher_temp_start, self.teacher_temp_end = teacher_temp_schedule
        self.teacher_temp_rule = teacher_temp_rule
        self.warmup_teacher_temp_epochs = warmup_teacher_temp_epochs
        self.ema_start, self.ema_end = ema_momentum_schedule
        self.local_crops_number = local_crops_number
        self.local_crops_scale = local_crops_scale
        self.global_crops_scale = global_crops_scale
        self.epoch = 0
        self.total_epochs = total_epochs

    @classmethod
    def from_config(cls, vit: ViTConfig, objective: ObjectiveConfig, masks: MaskConfig) -> "DINOv2":
        """The method as the trainer builds it."""
        return cls(vit=vit, objective=objective, masks=masks)

    @property
    def student(self) -> Network:
        """The networks that are trained."""
        ibot = self.objective.ibot_weight > 0
        return Network(self.student_backbone, self.student_head, self.student_patch_head, ibot)

    @property
    def teacher(self) -> Network:
        """Their average."""
        ibot = self.objective.ibot_weight > 0
        return Network(self.teacher_backbone, self.teacher_head, self.teacher_patch_head, ibot)

    # -- the step ---------------------------------------------------------------------------------

    def forward(
        self,
        images: Batch | Sequence[Tensor],
        *,
        teacher_temp: float | None = None,
        asked: Asked | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and metrics of one micro-batch of normalised crops.

        `images` is a `Batch`, or the seed's list `[global 1, global 2, local 1, ...]` of (B, 3, H, W)
        tensors, for which masks are drawn here. `asked` comes from `ask`; left out, the micro-batch is a step
        of its own.
        """
        patch = self.student_backbone.patch_size
        batch = images if isinstance(images, Batch) else batch_of(images, self.masks, patch)
        if asked is None:
            (asked,) = self.ask([batch], teacher_temp=teacher_temp)
        return self._student_losses(batch, asked)

    @torch.no_grad()
    def ask(self, micro_batches: Sequence[Batch], *, teacher_temp: float | None = None) -> list[Asked]:
        """What the teacher asks of the student in a step, for each micro-batch.

        Centering sees the global crops of the whole step; the moving centre takes them in after it was used.
        """
        temperature = self.get_teacher_temp(self.epoch) if teacher_temp is None else teacher_temp
        seen = [self.teacher.whole_globals(batch) for batch in micro_batches]
        prototypes = self.teacher_head.shared_prototypes()
        cls = self._targets([cls for cls, _ in seen], prototypes, self.centering, temperature)
        patches: Sequence[Targets | None] = [None] * len(seen)
        if self.objective.ibot_weight > 0:
            if self.teacher_patch_head is not None:
                prototypes = self.teacher_patch_head.shared_prototypes()
            patches = self._targets([rows for _, rows in seen], prototypes, self.patch_centering, temperature)
        koleo: Sequence[Spread | None] = [None] * len(seen)
        if self.objective.koleo_weight > 0 and len(seen) > 1:
            koleo = self._spread(micro_batches)
        shares = self._shares([len(batch.masks.index) for batch in micro_batches])
        return [Asked(temperature, *parts) for parts in zip(cls, patches, shares, koleo, strict=True)]

    @staticmethod
    def _shares(counts: list[int]) -> list[float]:
        """Each count as a multiple of the mean over all micro-batches of all processes."""
        everyone = [count for counts in everyones_numbers(counts) for count in counts]
        mean = sum(everyone) / len(everyone) or 1.0
        return [count / mean for count in counts]

    def _spread(self, micro_batches: Sequence[Batch]) -> list[Spread]:
        """KoLeo over the whole step and its slope, from a first look of the student at all micro-batches.

        Nearest neighbours may lie in other micro-batches, so their features must be known before the first
        backward pass. The second look draws the same stochastic depth: each begins with the same seed.
        """
        seeds = torch.randint(2**62, (len(micro_batches),)).tolist()
        looks = []
        for batch, seed in zip(micro_batches, seeds, strict=True):
            torch.manual_seed(seed)
            looks.append(self.student.masked_globals(batch).unflatten(0, (2, -1)))
        loss, slope = koleo_and_slope(torch.cat(looks, dim=1))
        parts = slope.split([batch.images for batch in micro_batches], dim=1)
        return [
            Spread(seed, loss, len(seeds) * part.flatten(0, 1))
            for seed, part in zip(seeds, parts, strict=True)
        ]

    @staticmethod
    def _targets(
        rows: Sequence[Tensor], prototypes: Prototypes | None, centering: Centering, temperature: float
    ) -> list[Targets]:
        """Targets of each micro-batch under the centering of them all, which then moves on."""
        logits = Logits(torch.cat(list(rows)), prototypes)
        offset = centering.offset(logits, temperature)
        centering.update(logits)
        return Targets(logits, temperature, offset).split([len(part) for part in rows])

    def _student_losses(self, batch: Batch, asked: Asked) -> tuple[Tensor, dict[str, Tensor]]:
        """Every loss term of the student, weighted and named, and their sum."""
        want, images = self.objective, batch.images
        if asked.koleo is not None:
            torch.manual_seed(asked.koleo.seed)
        cls_global, (cls, patches) = self.student.masked_globals_locals(batch)
        crops = 2 + batch.local_count
        dino = Term(
            cls.unflatten(0, (crops, images)),
            asked.cls,
            pair_weights(2, crops),
            torch.full((images,), want.dino_weight / images, device=cls.device),
        )
        ibot = None
        if asked.patches is not None:
            weight = batch.masks.weight * (want.ibot_weight / (2 * images))
            ibot = Term(patches.unsqueeze(0), asked.patches, [[1.0]], weight)
        loss, metrics = self._cross_entropies(dino, ibot)
        everyones = all_gather(cls_global.detach())
        metrics |= {"student/std": spread_of(everyones), "student/cosine": likeness_of(everyones)}
        if ibot is not None:
            metrics["teacher/patch_entropy"] *= asked.patch_share
        if want.koleo_weight > 0:
            spread = asked.koleo.loss_at(cls_global) if asked.koleo else koleo_over_all(cls_global)
            loss = loss + want.koleo_weight * spread
            metrics["loss/koleo"] = want.koleo_weight * spread.detach()
        return loss, metrics | self._references(batch, asked, loss)

    def _cross_entropies(self, dino: Term, ibot: Term | None) -> tuple[Tensor, dict[str, Tensor]]:
        """DINO and iBOT, and what there is to say of them; together where they share the prototypes."""
        head, temp = self.student_head, self.student_temp
        if ibot is None or self.student_patch_head is None:
            terms = [dino] if ibot is None else [dino, ibot]
            results = [prototype_loss(head.prototypes, terms, temp)]
        else:
            pairs = (head, dino), (self.student_patch_head, ibot)
            results = [prototype_loss(net.prototypes, [term], temp) for net, term in pairs]
        crops = [part for result in results for part in result.crops]
        entropy = [part for result in results for part in result.entropy]
        metrics = {"loss/dino_global": crops[0][:2].sum(), "teacher/entropy": entropy[0]}
        if self.objective.dino_weight > 0:  # the weights of all pairs add up to dino_weight
            metrics["teacher/kl"] = crops[0].sum() / self.objective.dino_weight - entropy[0]
        if len(crops[0]) > 2:
            metrics["loss/dino_local"] = crops[0][2:].sum()
        if ibot is not None:
            metrics |= {"loss/ibot": crops[1].sum(), "teacher/patch_entropy": entropy[1]}
        return torch.stack([result.loss for result in results]).sum(), metrics

    @torch.no_grad()
    def _references(self, batch: Batch, asked: Asked, loss: Tensor) -> dict[str, Tensor]:
        """The whole loss, what its terms would be if every output were uniform, and scheduled values."""
        want = self.objective
        metrics = {"loss": loss.detach()}
        crops = 2 + batch.local_count
        pairs = 2 * (crops - 1)
        uniform = want.dino_weight * math.log(want.out_dim)
        known = {"dino_global": uniform * 2 / pairs, "entropy": math.log(want.out_dim)}
        if batch.local_count:
            known["dino_local"] = uniform * 2 * batch.local_count / pairs
        metrics |= {f"uniform/{name}": loss.new_full((), value) for name, value in known.items()}
        if asked.patches is not None:
            prototypes = asked.patches.logits.shape[1]
            share = batch.masks.weight.sum() / (2 * batch.images)
            metrics["uniform/ibot"] = share * (want.ibot_weight * math.log(prototypes))
        metrics["teacher_temp"] = loss.new_full((), asked.temperature)
        metrics["ema_momentum"] = loss.new_full((), float(self.get_ema_momentum(self.epoch)))
        metrics["center_norm"] = self.center.norm()
        return metrics

    # -- the teacher ------------------------------------------------------------------------------

    @torch.no_grad()
    def update_teacher(self, momentum: float | None = None, *, where: Bool[Tensor, ""] | None = None) -> None:
        """`teacher ← momentum · teacher + (1 - momentum) · student`, for backbone and heads.

        Where `where` is false the share of the student is 0, so finite weights stay as they are.
        """
        momentum = float(self.get_ema_momentum(self.epoch)) if momentum is None else momentum
        student: list[Tensor] = [p for net in self.trained_networks().values() for p in net.parameters()]
        teacher: list[Tensor] = [p for net in self.teacher.parts().values() for p in net.parameters()]
        if where is None:
            torch._foreach_lerp_(teacher, student, 1.0 - momentum)
            return
        share = where.to(student[0].dtype) * (1.0 - momentum)
        for ours, theirs in zip(teacher, student, strict=True):
            ours.lerp_(theirs, share)

    @property
    def center(self) -> Float[Tensor, "1 prototypes"]:
        """Moving mean of the teacher's CLS logits; zero under Sinkhorn-Knopp, which needs none."""
        return getattr(self.centering, "center", torch.zeros(1, self.objective.out_dim))

    @center.setter
    def center(self, value: Float[Tensor, "1 prototypes"]) -> None:
        self.centering.place(value)

    @torch.no_grad()
    def update_center(self, teacher_output: Float[Tensor, "rows prototypes"]) -> None:
        """Move the centre by the mean of raw teacher logits (not centred, not divided)."""
        self.centering.update(teacher_output)

    def get_teacher_temp(self, epoch: float) -> float:
        """Teacher temperature at an epoch.

        `official`: linear during the warm-up epochs, then constant. `linear`: linear over all epochs (the
        seed's text). `seed`: constant during the warm-up, linear afterwards (the seed's code).
        """
        start, end = self.teacher_temp_start, self.teacher_temp_end
        warmup = self.warmup_teacher_temp_epochs
        if self.teacher_temp_rule == "official":
            progress = epoch / warmup if epoch < warmup else 1.0
        elif self.teacher_temp_rule == "linear":
            progress = epoch / self.total_epochs
        elif self.teacher_temp_rule == "seed":
            progress = max(epoch - warmup, 0) / max(self.total_epochs - warmup, 1)
        else:
            raise ConfigError(unknown("teacher_temp_rule", self.teacher_temp_rule, _TEMP_RULES))
        return start + (end - start) * min(progress, 1.0)

    def get_ema_momentum(self, epoch: float) -> np.float64:
        """Momentum of the teacher, a cosine over `total_epochs`; a float with `.item()`, as in the seed."""
        end, progress = self.ema_end, min(epoch / self.total_epochs, 1.0)
        return np.float64(end - (end - self.ema_start) * 0.5 * (1 + math.cos(math.pi * progress)))

    # -- networks ---------------------------------------------------------------------------------

    def trained_networks(self) -> dict[str, nn.Module]:
        """Student networks by name."""
        return self.student.parts()

    @property
    def inference_backbone(self) -> nn.Module:
        """The teacher's backbone: what the official release ships, and what is evaluated here."""
        return self.teacher_backbone

    def train(self, mode: bool = True) -> "DINOv2":
        """Training mode for the student; the teacher always stays in eval mode."""
        super().train(mode)
        for network in self.teacher.parts().values():
            network.eval()
        return self
