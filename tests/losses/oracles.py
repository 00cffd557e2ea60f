"""The formulas once more, as plain loops in double precision, and the numbers of the official code."""

import math

import torch
from torch import Tensor


def fill(shape: tuple[int, ...], scale: float = 1.0, phase: float = 0.0) -> Tensor:
    """The golden values' input: flat[j] = scale · sin(0.37 j + phase), in float64, cast to float32."""
    flat = torch.arange(math.prod(shape), dtype=torch.float64)
    return (scale * (0.37 * flat + phase).sin()).float().reshape(shape)


def random_probs(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return (3.0 * torch.randn(*shape, dtype=dtype)).softmax(-1)


def cross_entropy(logits: list[float], probs: list[float], temp: float) -> float:
    scaled = [value / temp for value in logits]
    largest = max(scaled)
    log_norm = largest + math.log(sum(math.exp(value - largest) for value in scaled))
    return sum(p * (log_norm - value) for p, value in zip(probs, scaled, strict=True))


def pair_losses(student: Tensor, teacher: Tensor, temp: float) -> list[list[float]]:
    def mean(t: Tensor, s: Tensor) -> float:
        rows = [cross_entropy(a, b, temp) for a, b in zip(s.tolist(), t.tolist(), strict=True)]
        return sum(rows) / len(rows)

    return [[mean(t, s) for s in student] for t in teacher]


def koleo(features: Tensor, eps: float = 1e-8) -> tuple[float, list[int]]:
    """The loss and the nearest neighbours."""
    rows = features.double().tolist()
    unit = [[v / max(math.hypot(*row), eps) for v in row] for row in rows]
    total, neighbours = 0.0, []
    for i, a in enumerate(unit):
        others = [j for j in range(len(unit)) if j != i]
        cosine = {j: sum(x * y for x, y in zip(a, unit[j], strict=True)) for j in others}
        nearest = max(others, key=cosine.__getitem__)
        neighbours.append(nearest)
        gap = math.hypot(*[x - y + eps for x, y in zip(a, unit[nearest], strict=True)])
        total -= math.log(gap + eps)
    return total / len(unit), neighbours


def sinkhorn(logits: Tensor, temperature: float, iterations: int = 3) -> Tensor:
    """The textbook iteration on the table itself."""
    table = (logits.double() / temperature).exp()
    rows, prototypes = table.shape
    table = table / table.sum()
    for _ in range(iterations):
        for k in range(prototypes):
            table[:, k] /= table[:, k].sum() * prototypes
        for b in range(rows):
            table[b] /= table[b].sum() * rows
    return table * rows
