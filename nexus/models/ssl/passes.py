"""A backbone with its heads, as student and teacher have one each, and how it looks at the crops of a batch.

| pass                    | of      | sees                               | gives                             |
|-------------------------|---------|------------------------------------|-----------------------------------|
| `whole_globals`         | teacher | global crops                       | bottleneck features               |
| `masked_globals_locals` | student | masked global crops, local crops   | CLS features, bottleneck features |
| `masked_globals`        | student | masked global crops                | CLS features                      |

All crops of the student go through its backbone together, so that every weight is read once, gathered once
(FSDP) and gets its gradient once (`VisionTransformer.read_list`); but for CPUs, where putting tokens side by
side costs more than that saves. The numbers are the same. Bottleneck features are those of the CLS tokens and
of the masked patches, before the prototypes.
"""

import copy
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nexus.data.batch import Batch
from nexus.models.ssl.head import DINOv2Head
from nexus.models.ssl.objective import ObjectiveConfig
from nexus.models.vision import VisionTransformer, ViTConfig, build_backbone

APART = {"cpu"}
"""Devices on which crops of another size take a pass of their own (docs/performance.md)."""

Narrow = tuple[Float[Tensor, "_ bottleneck"], Float[Tensor, "_ _"]]
"""Bottleneck features of CLS tokens and of masked patches."""


@dataclass(frozen=True)
class Network:
    """A backbone and its heads; `patch_head` only where the masked patches have one of their own."""

    backbone: VisionTransformer
    head: DINOv2Head
    patch_head: DINOv2Head | None
    ibot: bool
    """Whether patches are masked and read at all."""

    @classmethod
    def build(cls, vit: ViTConfig, want: ObjectiveConfig) -> "Network":
        """A student with random weights."""
        backbone = build_backbone(vit)
        layers, output = want.head_layers, want.head_output
        sizes = vit.embed_dim, want.hidden_dim, want.out_dim, want.bottleneck_dim
        head, patch_head = DINOv2Head(*sizes, layers, output=output), None
        if want.separate_patch_head and want.ibot_weight > 0:
            sizes = (
                vit.embed_dim,
                want.hidden_dim,
                want.patch_out_dim or want.out_dim,
                want.patch_bottleneck_dim,
            )
            patch_head = DINOv2Head(*sizes, layers, output=output)
        return cls(backbone, head, patch_head, want.ibot_weight > 0)

    def teacher(self) -> "Network":
        """An exact copy that has no stochastic depth and gets no gradients."""
        backbone = build_backbone(self.backbone.config.model_copy(update={"drop_path_rate": 0.0}))
        backbone.load_state_dict(self.backbone.state_dict())
        heads = copy.deepcopy(self.head), copy.deepcopy(self.patch_head)
        made = Network(backbone, *heads, self.ibot)
        for part in made.parts().values():
            part.requires_grad_(False).eval()
        return made

    def parts(self) -> dict[str, nn.Module]:
        """The modules by name."""
        parts = {"backbone": self.backbone, "head": self.head, "patch_head": self.patch_head}
        return {name: part for name, part in parts.items() if part is not None}

    def whole_globals(self, batch: Batch) -> Narrow:
        """The teacher's pass: nothing is hidden from it."""
        hidden = batch.masks.index if self.ibot else None
        return self._narrow(*self.backbone.read(batch.global_crops, None, hidden))

    def masked_globals_locals(self, batch: Batch) -> tuple[Float[Tensor, "_ dim"], Narrow]:
        """The student's pass: CLS features of the global crops, and bottleneck features of all crops."""
        passes = [(batch.global_crops, self._grid(batch), batch.masks.index if self.ibot else None)]
        if len(batch.local_crops):
            passes.append((batch.local_crops, None, None))
        if batch.global_crops.device.type in APART:
            read = [self.backbone.read(*one) for one in passes]
        else:
            read = self.backbone.read_list(*zip(*passes, strict=True))
        cls_global, masked = read[0]
        return cls_global, self._narrow(torch.cat([cls for cls, _ in read]), masked)

    def masked_globals(self, batch: Batch) -> Float[Tensor, "_ dim"]:
        """The student's first look where a step has several micro-batches."""
        return self.backbone.read(batch.global_crops, self._grid(batch))[0]

    def _grid(self, batch: Batch) -> Tensor | None:
        return batch.masks.grid if self.ibot else None

    def _narrow(self, cls: Tensor, masked: Tensor) -> Narrow:
        """Bottleneck features of both kinds of token, in one call where they share a head."""
        if not self.ibot:
            return self.head.bottleneck(cls), masked[:0]
        if self.patch_head is not None:
            return self.head.bottleneck(cls), self.patch_head.bottleneck(masked)
        both = self.head.bottleneck(torch.cat([cls, masked]))
        return both[: len(cls)], both[len(cls) :]
