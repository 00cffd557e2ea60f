"""DINOv2: a student learns to predict an averaged copy of itself (the teacher) from other crops.

Oquab et al., "DINOv2: Learning Robust Visual Features without Supervision" (arXiv 2304.07193). One step::

    targets = teacher(global crops, unmasked)               # probabilities over K prototypes
    logits  = student(global crops, some patches masked), student(local crops)
    loss    = DINO(CLS logits, CLS targets of the other crops)
            + iBOT(logits of the masked patches, targets of the same patches)
            + 0.1 · (KoLeo(crop 1) + KoLeo(crop 2))
    optimizer step;  teacher ← m · teacher + (1 - m) · student
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from nexus.config import Config, Share, build
from nexus.data.batch import Batch, Masks
from nexus.data.masking import BlockMasker, MaskConfig
from nexus.data.multicrop import MultiCropAugmentation
from nexus.errors import ConfigError, unknown
from nexus.losses import (
    build_centering,
    dino_pair_losses,
    entropy,
    ibot_loss,
    koleo_loss,
    split_pairs,
)
from nexus.models.ssl.base import BaseSSL
from nexus.models.ssl.head import DINOv2Head
from nexus.models.vision import ViTConfig, architecture, build_backbone

__all__ = ["DINOv2", "DINOv2Head", "MultiCropAugmentation", "ObjectiveConfig"]


class ObjectiveConfig(Config):
    """The training objective: loss terms, heads, centering. Defaults are the official ones."""

    out_dim: PositiveInt = 65536
    """Prototypes K of the CLS head."""
    bottleneck_dim: PositiveInt = 256
    """Width of the normalised layer before the prototypes."""
    hidden_dim: PositiveInt = 2048
    """Width of the hidden layers of the heads."""
    head_layers: PositiveInt = 3
    """Linear layers of a head before the prototypes."""
    separate_patch_head: bool = False
    """Give the masked patches a head of their own (official ViT-L/14 and ViT-g/14 recipes)."""
    patch_out_dim: PositiveInt | None = None
    """Prototypes of the separate patch head; left out: as `out_dim`."""
    patch_bottleneck_dim: PositiveInt = 256
    """Bottleneck of the separate patch head."""
    head_output: Literal["weight_norm", "seed"] = "weight_norm"
    """`seed` is the seed document's head, L2-normalised after the prototypes: see docs/fidelity.md."""
    dino_weight: NonNegativeFloat = 1.0
    """Weight of the DINO loss on CLS tokens."""
    ibot_weight: NonNegativeFloat = 1.0
    """Weight of the iBOT loss on masked patches; 0 also switches the masks off."""
    koleo_weight: NonNegativeFloat = 0.1
    """Weight of KoLeo, for each of the two global crops."""
    centering: Literal["centering", "sinkhorn_knopp"] = "centering"
    """How teacher logits become targets: softmax with a moving centre, or Sinkhorn-Knopp."""
    center_momentum: Share = 0.9
    """Momentum of the moving centre, per step."""
    student_temp: PositiveFloat = 0.1
    """Softmax temperature of the student."""


_TEMP_RULES = ("official", "linear", "seed")


@dataclass(frozen=True)
class Targets:
    """What the teacher asks of the student: each row sums to 1."""

    cls: Float[Tensor, "2 batch prototypes"]
    patches: Float[Tensor, "masked patch_prototypes"] | None


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
        self._build_networks(vit)
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

    def _build_networks(self, vit: ViTConfig) -> None:
        """Student, its heads, then the teacher as an exact copy without stochastic depth or gradients."""
        want = self.objective
        self.student_backbone = build_backbone(vit)
        self.student_head = DINOv2Head(
            vit.embed_dim,
            want.hidden_dim,
            want.out_dim,
            want.bottleneck_dim,
            want.head_layers,
            output=want.head_output,
        )
        self.student_patch_head: DINOv2Head | None = None
        patch_out_dim = want.out_dim
        if want.separate_patch_head and want.ibot_weight > 0:
            patch_out_dim = want.patch_out_dim or want.out_dim
            self.student_patch_head = DINOv2Head(
                vit.embed_dim,
                want.hidden_dim,
                patch_out_dim,
                want.patch_bottleneck_dim,
                want.head_layers,
                output=want.head_output,
            )
        self.teacher_backbone = build_backbone(vit.model_copy(update={"drop_path_rate": 0.0}))
        self.teacher_backbone.load_state_dict(self.student_backbone.state_dict())
        self.teacher_head = copy.deepcopy(self.student_head)
        self.teacher_patch_head = copy.deepcopy(self.student_patch_head)
        for network in self._teacher_networks():
            network.requires_grad_(False).eval()
        self.centering = build_centering(want.centering, want.out_dim, want.center_momentum)
        self.patch_centering = build_centering(want.centering, patch_out_dim, want.center_momentum)

    # -- the step ---------------------------------------------------------------------------------

    def forward(
        self,
        images: Batch | Sequence[Tensor],
        *,
        teacher_temp: float | None = None,
        last_micro_batch: bool = True,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and metrics of one micro-batch of normalised crops.

        `images` is a `Batch`, or the seed's list `[global 1, global 2, local 1, ...]` of (B, 3, H, W)
        tensors, for which masks are drawn here. The centre takes this batch in after it was used; under
        gradient accumulation it moves once, at the last micro-batch, by the mean over all of them.
        """
        batch = images if isinstance(images, Batch) else self._batch_of(images)
        temperature = self.get_teacher_temp(self.epoch) if teacher_temp is None else teacher_temp
        targets = self._targets(batch, temperature)
        if last_micro_batch:
            self.centering.fold()
            self.patch_centering.fold()
        loss, metrics = self._student_losses(batch, targets)
        metrics["teacher_temp"] = torch.tensor(temperature)
        metrics["ema_momentum"] = torch.tensor(self.get_ema_momentum(self.epoch))
        metrics["center_norm"] = self.center.norm()
        return loss, metrics

    @torch.no_grad()
    def _targets(self, batch: Batch, temperature: float) -> Targets:
        """The teacher's probabilities for CLS tokens and masked patches of the unmasked global crops."""
        features = self.teacher_backbone.forward_features(batch.global_crops)
        logits = self.teacher_head(features["x_norm_clstoken"])
        cls = self.centering.targets(logits, temperature)
        self.centering.observe(logits)
        patches = None
        if self.objective.ibot_weight > 0:
            masked = features["x_norm_patchtokens"].flatten(0, 1)[batch.masks.index]
            patch_logits = (self.teacher_patch_head or self.teacher_head)(masked)
            patches = self.patch_centering.targets(patch_logits, temperature)
            self.patch_centering.observe(patch_logits)
        return Targets(cls.unflatten(0, (2, batch.images)), patches)

    def _student_losses(self, batch: Batch, targets: Targets) -> tuple[Tensor, dict[str, Tensor]]:
        """Every loss term of the student, weighted and named, and their sum."""
        want = self.objective
        grid = batch.masks.grid if want.ibot_weight > 0 else None
        features = self.student_backbone.forward_features(batch.global_crops, masks=grid)
        cls_global = features["x_norm_clstoken"]
        cls_all = cls_global
        if batch.local_crops.shape[0]:
            local = self.student_backbone.forward_features(batch.local_crops)
            cls_all = torch.cat([cls_global, local["x_norm_clstoken"]])
        logits = self.student_head(cls_all).unflatten(0, (-1, batch.images))
        pairs = dino_pair_losses(logits, targets.cls, self.student_temp)
        terms: dict[str, Tensor] = {}
        dino_global, dino_local = split_pairs(pairs)
        terms["dino_global"] = want.dino_weight * dino_global
        if batch.local_crops.shape[0]:
            terms["dino_local"] = want.dino_weight * dino_local
        if targets.patches is not None:
            masked = features["x_norm_patchtokens"].flatten(0, 1)[batch.masks.index]
            patch_logits = (self.student_patch_head or self.student_head)(masked)
            terms["ibot"] = want.ibot_weight * ibot_loss(
                patch_logits,
                targets.patches,
                batch.masks.weight,
                2 * batch.images,
                self.student_temp,
            )
        if want.koleo_weight > 0:
            koleo = torch.stack([koleo_loss(crop) for crop in cls_global.chunk(2)])
            terms["koleo"] = want.koleo_weight * koleo.sum()
        loss = torch.stack(list(terms.values())).sum()
        return loss, self._metrics(batch, targets, loss, terms)

    @torch.no_grad()
    def _metrics(
        self, batch: Batch, targets: Targets, loss: Tensor, terms: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Loss terms, each beside the value that it has while every output is uniform."""
        want = self.objective
        metrics = {"loss": loss.detach()}
        metrics.update({f"loss/{name}": term.detach() for name, term in terms.items()})
        crops = 2 + batch.local_count
        pairs = 2 * (crops - 1)
        uniform = want.dino_weight * math.log(want.out_dim)
        metrics["uniform/dino_global"] = torch.tensor(uniform * 2 / pairs)
        if batch.local_count:
            metrics["uniform/dino_local"] = torch.tensor(uniform * 2 * batch.local_count / pairs)
        metrics["teacher/entropy"] = entropy(targets.cls.flatten(0, 1))
        metrics["uniform/entropy"] = torch.tensor(math.log(want.out_dim))
        if targets.patches is not None:
            prototypes = targets.patches.shape[1]
            share = batch.masks.weight.sum() / (2 * batch.images)
            metrics["uniform/ibot"] = share * (want.ibot_weight * math.log(prototypes))
            metrics["teacher/patch_entropy"] = entropy(targets.patches)
        return metrics

    def _batch_of(self, crops: Sequence[Tensor]) -> Batch:
        """The seed's list of crops as a `Batch`, with masks drawn from torch's random state."""
        if len(crops) < 2:
            raise ConfigError(f"{len(crops)} crops given; the list starts with two global crops")
        for kind, group in (("global", crops[:2]), ("local", crops[2:])):
            shapes = sorted({tuple(crop.shape) for crop in group})
            if len(shapes) > 1 or any(len(shape) != 4 or shape[0] != len(crops[0]) for shape in shapes):
                raise ConfigError(
                    f"the {kind} crops are {' and '.join(map(str, shapes))}; all of a kind need one shape "
                    "(images, channels, height, width), with the same images in every crop"
                )
        first = crops[0]
        patch = self.student_backbone.patch_size
        rows, cols = first.shape[-2] // patch, first.shape[-1] // patch
        rng = np.random.default_rng(int(torch.randint(2**62, ())))
        grid = BlockMasker(self.masks, rows, cols).batch(2 * first.shape[0], rng)
        return Batch(
            global_crops=torch.cat(list(crops[:2])),
            local_crops=torch.cat(list(crops[2:])) if len(crops) > 2 else first[:0],
            masks=Masks.from_grid(grid.to(first.device)),
            images=first.shape[0],
        )

    # -- the teacher ------------------------------------------------------------------------------

    @torch.no_grad()
    def update_teacher(self, momentum: float | None = None) -> None:
        """`teacher ← momentum · teacher + (1 - momentum) · student`, for backbone and heads."""
        momentum = self.get_ema_momentum(self.epoch) if momentum is None else momentum
        student: list[Tensor] = [p for net in self.trained_networks().values() for p in net.parameters()]
        teacher: list[Tensor] = [p for net in self._teacher_networks() for p in net.parameters()]
        torch._foreach_lerp_(teacher, student, 1.0 - momentum)

    @property
    def center(self) -> Float[Tensor, "1 prototypes"]:
        """Moving mean of the teacher's CLS logits; zero under Sinkhorn-Knopp, which needs none."""
        return getattr(self.centering, "center", torch.zeros(1, self.objective.out_dim))

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

    def get_ema_momentum(self, epoch: float) -> float:
        """Momentum of the teacher at an epoch: a cosine over `total_epochs`."""
        progress = min(epoch / self.total_epochs, 1.0)
        return self.ema_end - (self.ema_end - self.ema_start) * 0.5 * (1 + math.cos(math.pi * progress))

    # -- networks ---------------------------------------------------------------------------------

    def trained_networks(self) -> dict[str, nn.Module]:
        """Student networks by name."""
        networks: dict[str, nn.Module] = {
            "backbone": self.student_backbone,
            "head": self.student_head,
        }
        if self.student_patch_head is not None:
            networks["patch_head"] = self.student_patch_head
        return networks

    def _teacher_networks(self) -> list[nn.Module]:
        """Teacher networks in the order of `trained_networks`."""
        networks: list[nn.Module] = [self.teacher_backbone, self.teacher_head]
        if self.teacher_patch_head is not None:
            networks.append(self.teacher_patch_head)
        return networks

    @property
    def inference_backbone(self) -> nn.Module:
        """The teacher's backbone: what the official release ships, and what is evaluated here."""
        return self.teacher_backbone

    def train(self, mode: bool = True) -> "DINOv2":
        """Training mode for the student; the teacher always stays in eval mode."""
        super().train(mode)
        for network in self._teacher_networks():
            network.eval()
        return self
