"""What DINOv2 is trained for, and what its teacher asks of the student."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from nexus.config import Config, Share
from nexus.distributed import all_gather, is_distributed, rank, world_size
from nexus.losses import Targets, koleo_loss


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


@dataclass(frozen=True)
class Spread:
    """KoLeo over all micro-batches of a step, as one of them contributes to it."""

    seed: int
    """Random state before the micro-batch."""
    loss: Float[Tensor, ""]
    """The value over the whole step."""
    slope: Float[Tensor, "crops dim"]
    """Its gradient at this micro-batch's CLS features, times the number of micro-batches."""

    def loss_at(self, cls: Float[Tensor, "crops dim"]) -> Float[Tensor, ""]:
        """The value, with a graph that sends the slope to the features."""
        product = (cls.to(self.slope.dtype) * self.slope).sum()
        return self.loss + (product - product.detach())


def koleo_and_slope(
    crops: Float[Tensor, "crops batch dim"],
) -> tuple[Float[Tensor, ""], Float[Tensor, "crops batch dim"]]:
    """KoLeo of each crop by itself over the images of all processes, summed, and its gradient at `crops`.

    The gradient is multiplied by the number of processes, over which gradients are averaged.
    """
    everyone = all_gather(crops.detach().transpose(0, 1)).requires_grad_()
    with torch.enable_grad():
        loss = sum_of_koleo(everyone.unbind(1))
    (slope,) = torch.autograd.grad(loss, everyone)
    mine = slope.chunk(world_size())[rank()].transpose(0, 1)
    return loss.detach(), world_size() * mine


def koleo_over_all(cls: Float[Tensor, "rows dim"]) -> Float[Tensor, ""]:
    """KoLeo of the CLS features (crop-major) of two crops, among the images of all processes."""
    if not is_distributed():
        return sum_of_koleo(cls.chunk(2))
    loss, slope = koleo_and_slope(cls.unflatten(0, (2, -1)))
    return Spread(0, loss, slope.flatten(0, 1)).loss_at(cls)


def sum_of_koleo(crops: Iterable[Float[Tensor, "batch dim"]]) -> Float[Tensor, ""]:
    """KoLeo of each crop by itself, summed."""
    return torch.stack([koleo_loss(crop) for crop in crops]).sum()


@dataclass(frozen=True)
class Asked:
    """What the teacher asks of the student for one micro-batch, under the statistics of the whole step."""

    temperature: float
    cls: Targets
    """One row for each global crop, crop-major."""
    patches: Targets | None
    """One row for each masked patch; none where iBOT is off."""
    patch_share: float = 1.0
    """Masked patches here, as a multiple of their mean over all micro-batches of all processes."""
    koleo: Spread | None = None
    """Only where a step has several micro-batches."""
