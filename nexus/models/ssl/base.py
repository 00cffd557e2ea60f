"""The one interface between a self-supervised method and the trainer."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from jaxtyping import Bool
from torch import Tensor, nn

from nexus.data.batch import Batch


class BaseSSL(nn.Module, ABC):
    """A self-supervised method. The trainer calls the five members below and nothing else."""

    def ask(self, micro_batches: Sequence[Batch], *, teacher_temp: float | None = None) -> Sequence[Any]:
        """What the teacher asks for in a step, for each micro-batch, under the statistics of them all.

        As it stands here: nothing, each micro-batch is a step of its own.
        """
        return [None] * len(micro_batches)

    @abstractmethod
    def forward(
        self,
        images: Batch | Sequence[Tensor],
        *,
        teacher_temp: float | None = None,
        asked: Any = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss (a scalar with a graph) and metrics (detached 0-d tensors) of one micro-batch.

        `asked` is its entry of what `ask` gave; left out, the micro-batch is a step of its own.
        """

    @abstractmethod
    def update_teacher(self, momentum: float | None = None, *, where: Bool[Tensor, ""] | None = None) -> None:
        """Move the teacher towards the student; call once after every optimizer step.

        Where `where` is false it stays. The device decides that: nobody waits for the value.
        """

    def trained_networks(self) -> dict[str, nn.Module]:
        """The networks that the optimizer trains, by name; gradients are clipped per network.

        As it stands here: every child with a trainable parameter.
        """
        children = self.named_children()
        return {name: child for name, child in children if any(p.requires_grad for p in child.parameters())}

    @property
    def inference_backbone(self) -> nn.Module:
        """The backbone that is saved, evaluated and shipped; as it stands here, `teacher_backbone`."""
        return self.get_submodule("teacher_backbone")
