"""Collectives that do nothing in a single process, so that no other file has to ask.

Everything here works without a process group; under `torchrun` it works with one.
"""

import torch
import torch.distributed as dist
from jaxtyping import Float, Shaped
from torch import Tensor


def is_distributed() -> bool:
    """Whether a process group of more than one process is running."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    """Index of this process among all of them; 0 alone."""
    return dist.get_rank() if is_distributed() else 0


def world_size() -> int:
    """Number of processes; 1 alone."""
    return dist.get_world_size() if is_distributed() else 1


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
