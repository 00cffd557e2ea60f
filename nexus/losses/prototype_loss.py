"""The cross-entropy of the objective from features to gradients, without a table of logits.

`cross_entropy` starts from tables of logits and probabilities, which with 65,536 prototypes are by far the largest
tensors of a step. Here both are made for a few rows at a time from bottleneck features, and the gradient
of those rows is taken at once, while they are there: the loss is a sum over rows, so nothing of a row is needed later.
What stays is the gradient of the features and of the prototypes. Four matrix products per row of each table, as in the
textbook, and none of it twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from nexus.losses.numerics import cache_size, full_dtype, no_autocast, row_slices
from nexus.losses.prototypes import Targets


_SCALE = 1.0


@dataclass(frozen=True)
class PrototypeLoss:
    """`loss` has a graph; the rest is for the record."""

    loss: Float[Tensor, ""]
    crops: Float[Tensor, " student"]
    """The share of each student crop in the loss."""
    entropy: Float[Tensor, ""]
    """Mean entropy of the targets, in nats; 0 without rows."""


def prototype_loss(
    features: Float[Tensor, "student rows bottleneck"],
    prototypes: Float[Tensor, "prototypes bottleneck"] | None,
    targets: Targets,
    pairs: Sequence[Sequence[float]],
    weight: Float[Tensor, " rows"],
    student_temp: float,
) -> PrototypeLoss:
    """Weighted sum of the cross-entropies of student rows against teacher rows.

    ::

        z[s, n] = features[s, n] @ prototypes.T / student_temp
        p[t, n] = targets of row t · rows + n
        loss    = sum over t, s, n of pairs[t][s] · weight[n] · cross_entropy(p[t, n], z[s, n])

    Equal to the same sum over `cross_entropy`. A student crop meets the weighted mean of its targets, which is
    the same by linearity and needs one pass. Computed in float32 (float64 stays), logits and the products for their
    gradients in the dtype of the features. `prototypes` None: the features are the logits. Targets and weights get
    no gradient.
    """
    assert len(targets) == len(pairs) * features.shape[1], (
        "teacher rows are crop-major, one for each student row"
    )
    loss, crops, entropy = _PrototypeLoss.apply(
        features, prototypes, targets, pairs, weight, student_temp, torch.is_grad_enabled()
    )
    return PrototypeLoss(loss, crops, entropy)


class _PrototypeLoss(torch.autograd.Function):
    """`d loss / d z[s, n] = weight · (softmax(z[s, n]) - mean target)`, taken in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        prototypes: Tensor | None,
        targets: Targets,
        pairs: Sequence[Sequence[float]],
        weight: Tensor,
        temp: float,
        graph: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        with no_autocast(features.device):
            sums = _Sums(features, prototypes, targets, pairs, weight, temp, gradients=graph)
            for part in row_slices(features.shape[1], targets.logits.shape[1] * sums.tables):
                sums.add(part)
        ctx.save_for_backward(sums.to_features, sums.to_prototypes)
        crops = (sums.losses * sums.weight).sum(dim=1)
        entropy = sums.entropy / max(1, len(targets))
        ctx.mark_non_differentiable(crops, entropy)
        return crops.sum(), crops, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        features, prototypes = ctx.saved_tensors
        to_prototypes = None if prototypes is None else prototypes * grad
        return features * grad, to_prototypes, None, None, None, None, None


class _Sums:
    """Losses and gradients of the rows so far."""

    def __init__(
        self,
        features: Tensor,
        prototypes: Tensor | None,
        targets: Targets,
        pairs: Sequence[Sequence[float]],
        weight: Tensor,
        temp: float,
        *,
        gradients: bool,
    ) -> None:
        self.dtype = full_dtype(features.dtype)
        self.targets, self.temp, self.gradients = targets, temp, gradients
        students, rows, _ = features.shape
        self.tables = students + len(pairs)
        self.features = features
        self.prototypes = None if prototypes is None else prototypes.to(features.dtype)
        self.teacher = targets.logits.features.unflatten(0, (len(pairs), rows))
        mass = [sum(column) for column in zip(*pairs, strict=True)]
        self.mixtures = [
            tuple(pair / max(total, 1e-30) for pair in column)
            for column, total in zip(zip(*pairs, strict=True), mass, strict=True)
        ]
        self.weight = torch.stack([weight.to(self.dtype) * total for total in mass])
        self.losses = features.new_zeros(students, rows, dtype=self.dtype)
        self.entropy = features.new_zeros((), dtype=self.dtype)
        self.to_features = torch.zeros_like(features, dtype=self.dtype) if gradients else None
        self.to_prototypes = None
        if gradients and prototypes is not None:
            self.to_prototypes = torch.zeros_like(prototypes, dtype=self.dtype)

    def add(self, part: slice) -> None:
        """Take in some rows of every crop."""
        x = (self.features[:, part].to(self.dtype) / self.temp).to(self.features.dtype)
        teacher = _logits(self.teacher[:, part], self.targets.logits.prototypes)
        table = _logits(x, self.prototypes)
        for block in row_slices(table.shape[1], table.shape[2], cache_size(table.device)):
            self._block(part.start, block, teacher[:, block], table[:, block])
        if self.gradients:
            self._gradients(part, x, table)

    def _block(self, start: int, block: slice, teacher: Tensor, table: Tensor) -> None:
        """Losses of a few rows, which stay in the processor's cache; `table` becomes the slope of each logit."""
        rows = slice(start + block.start, start + block.stop)
        probs = []
        for logits in teacher:
            log_p = self.targets.log_probs(logits)
            probs.append(log_p.exp())
            self.entropy -= log_p.mul_(probs[-1]).sum()
        mixed: dict[tuple[float, ...], Tensor] = {}
        for crop, mixture in enumerate(self.mixtures):
            if mixture not in mixed:
                mixed[mixture] = _mix(probs, mixture)
            log_q = table[crop].to(self.dtype).log_softmax(dim=1)
            self.losses[crop, rows] = -(mixed[mixture] * log_q).sum(dim=1)
            if self.gradients:
                table[crop] = log_q.exp_().sub_(mixed[mixture]).mul_(_SCALE)

    def _gradients(self, part: slice, x: Tensor, slopes: Tensor) -> None:
        """Add what the rows' slopes ask of features and prototypes."""
        weight = self.weight[:, part, None]
        assert self.to_features is not None
        if self.prototypes is None:
            self.to_features[:, part] = slopes * (weight / self.temp)
            return
        slopes = slopes.flatten(0, 1)
        back = (slopes @ self.prototypes).to(self.dtype).unflatten(0, weight.shape[:2])
        self.to_features[:, part] = back * (weight / self.temp)
        assert self.to_prototypes is not None
        weighted = (x * weight.to(x.dtype)).flatten(0, 1)
        if x.dtype == self.dtype:
            self.to_prototypes.addmm_(slopes.T, weighted)
        else:
            self.to_prototypes += slopes.T @ weighted


def _logits(features: Tensor, prototypes: Tensor | None) -> Tensor:
    """A table (crops, rows, prototypes) of its own, which may be written over."""
    if prototypes is None:
        return features.clone()
    return (features.flatten(0, 1) @ prototypes.T).unflatten(0, features.shape[:2])


def _mix(probs: list[Tensor], mixture: tuple[float, ...]) -> Tensor:
    """The weighted mean of the teacher crops' probabilities."""
    chosen = [(share, table) for share, table in zip(mixture, probs, strict=True) if share]
    if len(chosen) == 1 and chosen[0][0] == 1.0:
        return chosen[0][1]
    return sum((share * table for share, table in chosen), start=torch.zeros_like(probs[0]))
