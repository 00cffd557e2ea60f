"""How teacher logits become targets: softmax around a moving centre, or Sinkhorn-Knopp.

Both have the same face, so a model holds either:

    offset = centering.offset(logits, temperature)     # targets are softmax(logits / temperature - offset)
    centering.update(logits)                           # once per step, on every process

`logits` are those of the whole step, a table or the `Logits` that make one.
"""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nexus.distributed import all_reduce_max, all_reduce_sum
from nexus.errors import ConfigError, choose
from nexus.losses.numerics import full_dtype, no_autocast, row_slices
from nexus.losses.prototypes import Logits, Targets


class SoftmaxCentering(nn.Module):
    """Centred softmax of DINO (arXiv 2104.14294, equation 4): the only loss part with a state.

    ::

        targets = softmax((logits - center) / temperature)
        center  = momentum * center + (1 - momentum) * mean of the step's logits

    `targets` uses the centre as it stands. Called before `fold`, as the official code does, step t
    uses the statistics of steps before t. `center` is (1, prototypes), zero at first, and saved;
    what `observe` has gathered since the last `fold` is not saved.
    """

    center: Float[Tensor, "1 prototypes"]
    pending: Float[Tensor, "1 prototypes"]

    def __init__(self, prototypes: int, momentum: float = 0.9) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("center", torch.zeros(1, prototypes))
        self.register_buffer("pending", torch.zeros(1, prototypes), persistent=False)
        self.rows = 0

    def reset_parameters(self) -> None:
        """Forget everything, for a module that was built on the meta device."""
        self.center.zero_()
        self.pending.zero_()
        self.rows = 0

    @torch.no_grad()
    def targets(
        self, logits: Float[Tensor, "rows prototypes"], temperature: float
    ) -> Float[Tensor, "rows prototypes"]:
        """Probabilities of each row under the present centre; nothing is updated."""
        offset = self.offset(logits, temperature)
        return Targets(Logits(logits), temperature, offset).log_probs(logits).exp()

    def offset(
        self, logits: Float[Tensor, "rows prototypes"] | Logits, temperature: float
    ) -> Float[Tensor, "1 prototypes"]:
        """`center / temperature`; the logits do not matter."""
        return self.center / temperature

    @torch.no_grad()
    def observe(self, logits: Float[Tensor, "rows prototypes"] | Logits) -> None:
        """Add some logits to the statistics of the step."""
        table = logits if isinstance(logits, Logits) else Logits(logits)
        self.pending += table.column_sums()
        self.rows += len(table)

    @torch.no_grad()
    def fold(self) -> None:
        """Fold the step's mean into the centre and start over; every process must call it.

        The mean is over the rows of all processes, as if one process held them all. Without any rows the
        centre stays.
        """
        rows = torch.full_like(self.pending[:, :1], float(self.rows))
        total = all_reduce_sum(torch.cat([self.pending, rows], dim=1))
        rows = total[:, -1:]
        step = (total[:, :-1] / rows.clamp(min=1.0) - self.center) * (1.0 - self.momentum)
        self.center += torch.where(rows > 0, step, 0.0)
        self.pending.zero_()
        self.rows = 0

    @torch.no_grad()
    def place(self, center: Float[Tensor, "1 prototypes"]) -> None:
        """Put the centre where it was saved."""
        self.center.copy_(center)

    def update(self, logits: Float[Tensor, "rows prototypes"] | Logits) -> None:
        """`observe` and `fold` in one call."""
        self.observe(logits)
        self.fold()


class SinkhornKnopp(nn.Module):
    """`sinkhorn_knopp` with the face of `SoftmaxCentering`, but without a state to update."""

    def __init__(self, iterations: int = 3) -> None:
        super().__init__()
        self.iterations = iterations

    def targets(
        self, logits: Float[Tensor, "rows prototypes"], temperature: float
    ) -> Float[Tensor, "rows prototypes"]:
        """Probabilities of each row, balanced over the rows of all processes."""
        return sinkhorn_knopp(logits, temperature, self.iterations)

    @torch.no_grad()
    def offset(
        self, logits: Float[Tensor, "rows prototypes"] | Logits, temperature: float
    ) -> Float[Tensor, "1 prototypes"]:
        """`v` of `sinkhorn_knopp`, over the rows of all processes."""
        return sinkhorn_offset(logits, temperature, self.iterations)

    def place(self, center: Float[Tensor, "1 prototypes"]) -> None:
        """Refused: a centre would not be used."""
        raise ConfigError(
            "objective.centering=sinkhorn_knopp has no centre to set; leave it out, or build the model with "
            "objective.centering=centering"
        )

    def update(self, logits: Float[Tensor, "rows prototypes"] | Logits) -> None:
        """Nothing: the targets of a step depend on that step alone."""


Centering = SoftmaxCentering | SinkhornKnopp


@torch.no_grad()
def sinkhorn_knopp(
    logits: Float[Tensor, "rows prototypes"], temperature: float, iterations: int = 3
) -> Float[Tensor, "rows prototypes"]:
    """Teacher probabilities that use all prototypes about equally (SwAV, arXiv 2006.09882).

    The official iteration, on `Q = exp(logits / temperature)`::

        repeat:  Q[:, k] /= sum over rows of Q[:, k]          and / prototypes
                 Q[b, :] /= sum over prototypes of Q[b, :]    and / rows
        probs = Q * rows

    The constants cancel, and a step only rescales rows and columns, so two vectors say it all::

        z = logits / temperature
        repeat:  v[k] = logsumexp over b of (z[b, k] - u[b])
                 u[b] = logsumexp over k of (z[b, k] - v[k])
        probs = exp(z - u - v) = softmax over k of (z - v)

    Nothing overflows or divides by zero, however far a row lies below the largest logit; each row
    sums to 1. "Over b" means over the rows of all processes, which may hold different numbers of
    rows, even none; every process must call it. `iterations` >= 1.
    """
    v = sinkhorn_offset(logits, temperature, iterations)
    with no_autocast(logits.device):
        return _Scaled(Logits(logits), temperature).softmax(v)


@torch.no_grad()
def sinkhorn_offset(
    logits: Float[Tensor, "rows prototypes"] | Logits, temperature: float, iterations: int = 3
) -> Float[Tensor, "1 prototypes"]:
    """`v` of `sinkhorn_knopp`: what each prototype is handicapped by."""
    table = logits if isinstance(logits, Logits) else Logits(logits)
    device = table.features.device
    with no_autocast(device):
        scale = _Scaled(table.kept(), temperature)
        u = torch.zeros(len(table), 1, dtype=scale.dtype, device=device)
        v = scale.column_logsumexp(u)
        for _ in range(iterations - 1):
            u = scale.row_logsumexp(v)
            v = scale.column_logsumexp(u)
        return v


class _Scaled:
    """`logits / temperature` in full precision, made slice by slice, never as a whole."""

    def __init__(self, logits: Logits, temperature: float) -> None:
        self.logits = logits
        self.temperature = temperature
        self.dtype = full_dtype(logits.features.dtype)
        self.slices = list(row_slices(*logits.shape))

    def __getitem__(self, part: slice) -> Tensor:
        return self.logits[part].to(self.dtype) / self.temperature

    def column_logsumexp(self, u: Tensor) -> Tensor:
        """`v` (1, prototypes): over the rows of all processes, shifted by each largest entry."""
        largest = self.logits.features.new_full((1, self.logits.shape[1]), float("-inf"), dtype=self.dtype)
        for part in self.slices:
            largest = largest.maximum((self[part] - u[part]).amax(dim=0, keepdim=True))
        largest = all_reduce_max(largest)
        total = torch.zeros_like(largest)
        for part in self.slices:
            total += (self[part] - u[part]).sub_(largest).exp_().sum(dim=0, keepdim=True)
        return largest + all_reduce_sum(total).log()

    def row_logsumexp(self, v: Tensor) -> Tensor:
        """`u` (rows, 1): over the prototypes of each row."""
        parts = [(self[part] - v).logsumexp(dim=1, keepdim=True) for part in self.slices]
        return torch.cat(parts) if parts else self.logits.features.new_zeros(0, 1, dtype=self.dtype)

    def softmax(self, v: Tensor) -> Tensor:
        """`softmax(z - v)` of each row."""
        probs = self.logits.features.new_empty(self.logits.shape, dtype=self.dtype)
        for part in self.slices:
            probs[part] = (self[part] - v).softmax(dim=1)
        return probs


_KINDS: dict[str, Callable[[int, float], Centering]] = {
    "centering": SoftmaxCentering,
    "sinkhorn_knopp": lambda prototypes, momentum: SinkhornKnopp(),
}


def build_centering(
    kind: Literal["centering", "sinkhorn_knopp"], prototypes: int, momentum: float = 0.9
) -> Centering:
    """The centering called `kind`; Sinkhorn-Knopp needs neither `prototypes` nor `momentum`."""
    return choose(kind, _KINDS, "centering")(prototypes, momentum)
