"""The cross-entropies of the objective from features to gradients, without a table of logits.

`cross_entropy` starts from tables of logits and probabilities, which with 65,536 prototypes are by far the
largest tensors of a step. Here both are made for some rows at a time from bottleneck features, and the
gradient of those rows is taken at once, while they are there: the loss is a sum over rows, so nothing of a
row is needed later. What stays is the gradient of features and prototypes. That takes the matrix products of
the textbook, none of them twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from nexus.losses.numerics import cache_size, full_dtype, no_autocast, row_slices, table_slices
from nexus.losses.prototypes import Targets


@dataclass(frozen=True)
class Term:
    """What one term of the objective compares; `prototype_loss` says how."""

    features: Float[Tensor, "student rows bottleneck"]
    targets: Targets
    """Teacher rows, crop-major: one for each teacher crop and student row."""
    pairs: Sequence[Sequence[float]]
    """Weight of each pair `[teacher crop][student crop]`."""
    weight: Float[Tensor, " rows"]
    """Weight of each row."""


@dataclass(frozen=True)
class PrototypeLoss:
    """`loss` has a graph; the rest, one entry for each term, is for the record."""

    loss: Float[Tensor, ""]
    crops: Sequence[Float[Tensor, " _"]]
    """The share of each student crop in the loss."""
    entropy: Sequence[Float[Tensor, ""]]
    """Mean entropy of the targets, in nats; 0 without rows."""


def prototype_loss(
    prototypes: Float[Tensor, "prototypes bottleneck"] | None, terms: Sequence[Term], student_temp: float
) -> PrototypeLoss:
    """Weighted sum of cross-entropies of student rows against teacher rows, over all terms.

    ::

        z[s, n] = features[s, n] @ prototypes.T / student_temp
        p[t, n] = targets of row t · rows + n
        loss    = sum over t, s, n of pairs[t][s] · weight[n] · cross_entropy(p[t, n], z[s, n])

    Equal to the same sum over `cross_entropy`. A student crop meets the weighted mean of its targets, which
    is the same by linearity and needs one pass. Computed in float32 (float64 stays); logits, and the products
    for their gradients, in the dtype of the features. `prototypes` None: the features are the logits. Targets
    and weights get no gradient, and `loss` can be differentiated once.
    """
    for term in terms:
        assert len(term.targets) == len(term.pairs) * term.features.shape[1], "one teacher row for each"
    graph = torch.is_grad_enabled()
    loss, *record = _PrototypeLoss.apply(
        prototypes, terms, student_temp, graph, *[term.features for term in terms]
    )
    return PrototypeLoss(loss, record[: len(terms)], record[len(terms) :])


class _PrototypeLoss(torch.autograd.Function):
    """`d loss / d z[s, n] = weight · (softmax(z[s, n]) - mean target)`, taken in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        prototypes: Tensor | None,
        terms: Sequence[Term],
        temp: float,
        graph: bool,
        *features: Tensor,
    ) -> tuple[Tensor, ...]:
        slope = _PrototypeSlope(prototypes) if graph else None
        with no_autocast(features[0].device):
            copy = None if prototypes is None else prototypes.detach().to(features[0].dtype)
            sums = [
                _Sums(x.detach(), copy, term, temp, slope) for x, term in zip(features, terms, strict=True)
            ]
        ctx.save_for_backward(*[term.to_features for term in sums])
        ctx.prototypes = slope
        crops = [(term.losses * term.weight).sum(dim=1) for term in sums]
        entropy = [term.entropy / max(1, len(term.targets)) for term in sums]
        ctx.mark_non_differentiable(*crops, *entropy)
        return torch.cat(crops).sum(), *crops, *entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        assert ctx.prototypes is not None, "the gradient is taken once"
        to_prototypes, ctx.prototypes = ctx.prototypes.total(), None
        if to_prototypes is not None:
            to_prototypes.mul_(grad)
        return to_prototypes, None, None, None, *[part * grad for part in ctx.saved_tensors]


class _PrototypeSlope:
    """The gradient of the prototypes, gathered over rows in full precision."""

    def __init__(self, prototypes: Tensor | None) -> None:
        self._prototypes = prototypes
        self._total: Tensor | None = None

    def add(self, slopes: Tensor, features: Tensor) -> None:
        """Add `slopes.T @ features`."""
        if self._total is None:
            self._total = (slopes.T @ features).to(full_dtype(features.dtype))
        elif features.dtype == self._total.dtype:
            self._total.addmm_(slopes.T, features)
        else:
            self._total += slopes.T @ features

    def total(self) -> Tensor | None:
        """What was added; none without prototypes."""
        if self._prototypes is None or self._total is not None:
            return self._total
        return torch.zeros_like(self._prototypes, dtype=full_dtype(self._prototypes.dtype))


class _Sums:
    """Losses and gradients of one term, gathered over some rows at a time."""

    def __init__(
        self,
        features: Tensor,
        prototypes: Tensor | None,
        term: Term,
        temp: float,
        slope: _PrototypeSlope | None,
    ) -> None:
        self.dtype = full_dtype(features.dtype)
        self.features, self.targets, self.temp, self.slope = features, term.targets, temp, slope
        self.prototypes = prototypes
        students, rows, _ = features.shape
        self.teacher = term.targets.logits.features.unflatten(0, (len(term.pairs), rows))
        columns = list(zip(*term.pairs, strict=True))
        mass = [sum(column) for column in columns]
        self.mixtures = [
            tuple(pair / (total or 1.0) for pair in column)
            for column, total in zip(columns, mass, strict=True)
        ]
        self.weight = torch.stack([term.weight.to(self.dtype) * total for total in mass])
        self.losses = features.new_zeros(students, rows, dtype=self.dtype)
        self.entropy = features.new_zeros((), dtype=self.dtype)
        self.to_features = torch.zeros_like(features, dtype=self.dtype)
        width = term.targets.logits.shape[1] * (students + len(term.pairs))
        for part in table_slices(rows, width):
            self._add(part)

    def _add(self, part: slice) -> None:
        """Take in some rows of every crop."""
        x = (self.features[:, part].to(self.dtype) / self.temp).to(self.features.dtype)
        teacher = _table(self.teacher[:, part], self.targets.logits.prototypes)
        table = _table(x, self.prototypes)
        if table.dtype is torch.float16:  # which would lose slopes as small as 1 / prototypes
            table = table.to(self.dtype)
        for block in row_slices(table.shape[1], table.shape[2], cache_size(table.device)):
            rows = slice(part.start + block.start, part.start + block.stop)
            self._block(rows, teacher[:, block], table[:, block])
        if self.slope is not None:
            self._gradients(part, x, table)

    def _block(self, rows: slice, teacher: Tensor, table: Tensor) -> None:
        """Losses of a few rows, which fit a processor's cache; `table` becomes the slope of each logit."""
        probs = []
        for logits in teacher:
            log_p = self.targets.log_probs(logits)
            probs.append(log_p.exp())
            self.entropy -= log_p.mul_(probs[-1]).sum()
        mixed = {mixture: _mix(probs, mixture) for mixture in set(self.mixtures)}
        for crop, mixture in enumerate(self.mixtures):
            log_q = table[crop].to(self.dtype).log_softmax(dim=1)
            self.losses[crop, rows] = -(mixed[mixture] * log_q).sum(dim=1)
            if self.slope is not None:
                table[crop] = log_q.exp_().sub_(mixed[mixture])

    def _gradients(self, part: slice, x: Tensor, slopes: Tensor) -> None:
        """What the slopes of some rows ask of features and prototypes."""
        weight = self.weight[:, part, None]
        if self.prototypes is None:
            self.to_features[:, part] = slopes * (weight / self.temp)
            return
        assert self.slope is not None
        slopes = slopes.flatten(0, 1)
        back = (slopes @ self.prototypes.to(slopes.dtype)).to(self.dtype).unflatten(0, weight.shape[:2])
        self.to_features[:, part] = back * (weight / self.temp)
        self.slope.add(slopes, (x * weight).to(slopes.dtype).flatten(0, 1))


def _table(features: Tensor, prototypes: Tensor | None) -> Tensor:
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
