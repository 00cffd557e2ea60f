"""Multinomial logistic regression with an L2 penalty, solved to the bottom, on any device.

The problem is scikit-learn's and cuML's, the intercept is not penalised::

    minimise over W, b:   C * sum of cross-entropies(x W' + b, label)  +  |W|² / 2

It is convex, so there is one answer, however it is found. We find it with L-BFGS after two changes of
variables that leave the answer where it is and make the valley round:

* The inputs are centred. The intercept takes that up.
* They are rotated onto their principal axes, which the penalty does not notice, and each axis is scaled by
  the root of its curvature, variance / 2 + penalty (Böhning 1992: no Hessian of a softmax exceeds half the
  covariance of the inputs). With fewer images than dimensions only the axes that they span are kept: the
  answer has no part outside.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nexus.errors import DataError

ROWS = 1 << 24
"""Logits held at once, at most: 128 MiB in float64."""
MEMORY = 10
"""Steps that L-BFGS remembers."""


@dataclass(frozen=True)
class LogisticModel:
    """One solution, in the coordinates of the inputs."""

    weight: Float[Tensor, "classes dim"]
    bias: Float[Tensor, " classes"]
    """Minus infinity for a class without a training image."""
    evaluations: int
    """Passes over the data that it took."""
    converged: bool

    def __call__(self, inputs: Float[Tensor, "samples dim"]) -> Float[Tensor, "samples classes"]:
        """The logits, in the precision of the solution."""
        return inputs.to(self.weight) @ self.weight.T + self.bias


class LogisticProblem:
    """Labelled inputs, prepared once for any number of penalties.

    Labels are 0..classes-1; at least two of them must occur (`DataError`). Computes in float64 where the
    device has it. Memory: two copies of the inputs.
    """

    def __init__(
        self,
        inputs: Float[Tensor, "samples dim"],
        labels: Int[Tensor, " samples"],
        classes: int,
        device: torch.device | str = "cpu",
    ) -> None:
        device = torch.device(device)
        x = inputs.to(device, torch.float32 if device.type == "mps" else torch.float64)
        self.present = labels.unique()
        if len(self.present) < 2:
            raise DataError("all training images have the same label; a classifier needs two classes or more")
        self.classes = classes
        self.labels = torch.searchsorted(self.present, labels).to(device)
        self.centre = x.mean(dim=0)
        x = x - self.centre
        self.basis = torch.linalg.qr(x.T).Q if len(x) < x.shape[1] else None
        x = x if self.basis is None else x @ self.basis
        variance, axes = torch.linalg.eigh(x.T @ x / len(x))
        self.variance = variance.clamp_min(0)
        self.axes = axes if self.basis is None else self.basis @ axes
        self.x = x @ axes

    def solve(
        self,
        c: float,
        start: LogisticModel | None = None,
        *,
        tolerance: float = 1e-5,
        max_evaluations: int = 1000,
    ) -> LogisticModel:
        """The solution for one penalty, begun at `start` if given (any solution of the same problem).

        `tolerance`: the largest slope at the end, of the mean loss in the scaled coordinates.
        """
        # Of two classes the libraries fit one weight vector: as a difference of two, it pays twice.
        penalty = 1 / (len(self.x) * (c / 2 if len(self.present) == 2 else c))
        scale = (self.variance / 2 + penalty).rsqrt()
        variables = self._begin(start, scale).requires_grad_()
        counted = 0

        def closure() -> Tensor:
            nonlocal counted
            counted += 1
            with torch.no_grad():
                loss, variables.grad = self._slope(variables.detach(), scale, penalty)
            return loss

        optimizer = torch.optim.LBFGS(
            [variables],
            lr=1.0,
            max_iter=max_evaluations,
            max_eval=max_evaluations,
            tolerance_grad=tolerance,
            tolerance_change=torch.finfo(self.x.dtype).eps,
            history_size=MEMORY,
            line_search_fn="strong_wolfe",
        )
        optimizer.step(closure)
        closure()  # the line search may have looked elsewhere last
        assert variables.grad is not None
        converged = bool(variables.grad.abs().max() <= tolerance)
        return self._model(variables.detach(), scale, counted, converged)

    def _slope(
        self, variables: Float[Tensor, "present axes"], scale: Float[Tensor, " dim"], penalty: float
    ) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy with the penalty, and its gradient; the last column is twice the intercept."""
        weight, bias = variables[:, :-1] * scale, variables[:, -1] * math.sqrt(2)
        loss = penalty / 2 * weight.square().sum()
        gradient = torch.cat([penalty * weight * scale, torch.zeros_like(bias)[:, None]], dim=1)
        rows = max(1, ROWS // len(bias))
        for x, labels in zip(self.x.split(rows), self.labels.split(rows), strict=True):
            logits = x @ weight.T + bias
            log_probability = logits.log_softmax(dim=1)
            loss -= log_probability.gather(1, labels[:, None]).sum() / len(self.x)
            error = log_probability.exp_()
            error[torch.arange(len(labels), device=error.device), labels] -= 1
            error /= len(self.x)
            gradient[:, :-1] += error.T @ x * scale
            gradient[:, -1] += error.sum(dim=0) * math.sqrt(2)
        return loss, gradient

    def _begin(self, start: LogisticModel | None, scale: Float[Tensor, " dim"]) -> Tensor:
        """Scaled coordinates of a solution, or zeros."""
        if start is None:
            return self.x.new_zeros(len(self.present), len(scale) + 1)
        weight = start.weight[self.present.to(start.weight.device)]
        bias = start.bias[self.present.to(start.weight.device)] + weight @ self.centre
        return torch.cat([weight @ self.axes / scale, bias[:, None] / math.sqrt(2)], dim=1)

    def _model(
        self, variables: Float[Tensor, "present axes"], scale: Float[Tensor, " dim"], counted: int, ok: bool
    ) -> LogisticModel:
        weight = variables[:, :-1] * scale @ self.axes.T
        bias = variables[:, -1] * math.sqrt(2) - weight @ self.centre
        all_weight = weight.new_zeros(self.classes, weight.shape[1])
        all_bias = bias.new_full((self.classes,), -torch.inf)
        present = self.present.to(weight.device)
        all_weight[present], all_bias[present] = weight, bias
        return LogisticModel(all_weight, all_bias, counted, ok)
