"""Collectives that do nothing in a single process, so that no other file has to ask.

Everything here works without a process group; in a run of several processes it works with one. The functions
for plain values travel over the CPU, also where tensors travel between GPUs.
"""

import datetime
import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Float, Shaped
from torch import Tensor

T = TypeVar("T")
Group = dist.ProcessGroup | None
"""The processes that take part; None: all."""


def is_distributed() -> bool:
    """Whether a process group of more than one process is running."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    """Index of this process among all of them; 0 alone."""
    return dist.get_rank() if is_distributed() else 0


def world_size() -> int:
    """Number of processes; 1 alone."""
    return dist.get_world_size() if is_distributed() else 1


def local_world_size() -> int:
    """Number of processes on this machine; 1 alone."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", world_size())) if is_distributed() else 1


def is_main() -> bool:
    """Whether this process writes files and prints."""
    return rank() == 0


def all_reduce_sum(tensor: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """The sum of `tensor` over all processes; not differentiable, the argument is left alone."""
    if not is_distributed():
        return tensor
    total = tensor.detach().clone()
    dist.all_reduce(total, op=dist.ReduceOp.SUM)
    return total


def all_reduce_max(tensor: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """The elementwise maximum of `tensor` over all processes."""
    if not is_distributed():
        return tensor
    largest = tensor.detach().clone()
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return largest


def all_reduce_mean(tensor: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """The mean of `tensor` over all processes."""
    return all_reduce_sum(tensor) / world_size()


def all_gather(tensor: Shaped[Tensor, "local ..."]) -> Shaped[Tensor, "all ..."]:
    """Rows of every process, in rank order; all must hold the same number of rows."""
    if not is_distributed():
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(world_size())]
    dist.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


def side_group(timeout: float) -> Group:
    """A group of all processes over the CPU for a thread beside the main one; `timeout` in seconds.

    Every process must call it. Collectives of two threads on one group would meet each other.
    """
    if not is_distributed():
        return None
    group = dist.new_group(backend="gloo", timeout=datetime.timedelta(seconds=timeout))
    return None if isinstance(group, int) else group


# -- plain values ---------------------------------------------------------------------------------


def everyones_numbers(numbers: Sequence[int]) -> list[list[int]]:
    """What each process gave, by rank; as many numbers everywhere."""
    if not is_distributed():
        return [list(numbers)]
    table: list[list[int]] = all_gather(torch.tensor([list(numbers)])).tolist()
    return table


def everyones(value: T, group: Group = None) -> list[T]:
    """The value of each process, by rank; it travels pickled."""
    if not is_distributed():
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value, group=group)
    return values


def on_each(function: Callable[[], T], group: Group = None) -> list[T]:
    """What `function` returns in each process, by rank. An error in one of them is raised in all of them."""
    result: T | None = None
    error: Exception | None = None
    try:
        result = function()
    except Exception as caught:
        error = caught
    outcomes = everyones((result, _portable(error)), group)
    for index, (_, remote) in enumerate(outcomes):
        if remote is not None:
            raise (error if index == rank() and error is not None else remote)
    return [value for value, _ in outcomes]  # type: ignore[misc]


def on_main(function: Callable[[], T], group: Group = None) -> T:
    """What `function` returns in the main process, in all; the others wait. So does its error."""
    return on_each(lambda: function() if is_main() else None, group)[0]  # type: ignore[return-value]


def _portable(error: Exception | None) -> Exception | None:
    """The error as it can travel: without the tracebacks and causes that hang on it."""
    import pickle

    try:
        copy: Exception | None = pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return copy
