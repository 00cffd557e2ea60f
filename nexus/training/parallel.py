"""How the processes of a run share one model; nothing of it is in the model.

| `compute.parallel` | each process holds                 | what travels in a step                      |
|--------------------|------------------------------------|---------------------------------------------|
| (one process)      | everything                         | nothing                                     |
| `ddp`              | everything                         | gradients, averaged while backward goes on  |
| `fsdp`             | slices of all, and one block whole | parameters on their way in, gradients back  |

With `fsdp` on several nodes the slices are of a node, and the nodes average like `ddp` (HSDP). Student and
teacher are cut alike, so the teacher's average, clipping and AdamW work on slices.
"""

import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from nexus.distributed import is_distributed, local_world_size, world_size
from nexus.models.ssl import DINOv2
from nexus.models.ssl.head import DINOv2Head
from nexus.models.ssl.passes import Network
from nexus.models.vision import VisionTransformer, build_backbone

Parallel = Literal["ddp", "fsdp"]


def share(model: DINOv2, how: Parallel, device: torch.device) -> nn.Module:
    """Share the model among all processes, and return what to call in place of it: the model itself if alone.

    With `fsdp` the parameters are replaced, so the optimizer is built afterwards.
    """
    if not is_distributed():
        return model
    if how == "fsdp":
        return _sharded(model, _mesh(device))
    # Looking for unused parameters keeps the buckets as they are: else torch orders them anew after its first
    # step, and a resumed run sums in another order. And some are unused: the mask token where iBOT is off.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*broadcast_buffers.*", category=FutureWarning)
        return DistributedDataParallel(
            _WithSpare(model),
            broadcast_buffers=False,
            gradient_as_bucket_view=True,
            find_unused_parameters=True,
        )


class _WithSpare(nn.Module):
    """The model, and a number beside it that nothing uses.

    Where a step uses everything, torch's C++ advises users on stderr to drop `find_unused_parameters`, past
    Python's warnings. With the number there is always something to be found, and the advice is not given.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        device = next(model.parameters()).device
        self.model, self.spare = model, nn.Parameter(torch.zeros((), device=device))

    def forward(self, *crops: Any, **settings: Any) -> Any:
        """What the model gives."""
        return self.model(*crops, **settings)


def _sharded(model: DINOv2, mesh: DeviceMesh) -> nn.Module:
    """Cut each block by itself; the rest, heads and embeddings, belongs together."""
    for backbone in (model.student_backbone, model.teacher_backbone):
        for block in backbone.blocks:
            fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    register_fsdp_forward_method(model, "ask")
    return model


def _mesh(device: torch.device) -> DeviceMesh:
    """All processes in a row, or nodes × processes of a node."""
    here, everywhere = local_world_size(), world_size()
    if here == everywhere:
        return init_device_mesh(device.type, (everywhere,), mesh_dim_names=("shard",))
    return init_device_mesh(device.type, (everywhere // here, here), mesh_dim_names=("replicate", "shard"))


def in_step(forward: nn.Module, *, last: bool) -> AbstractContextManager:
    """Around the forward pass of a micro-batch: after the `last` one gradients travel."""
    if isinstance(forward, FSDPModule):
        forward.set_requires_gradient_sync(last)
    elif isinstance(forward, DistributedDataParallel) and not last:
        return forward.no_sync()
    return nullcontext()


def whole_backbone(backbone: VisionTransformer) -> VisionTransformer:
    """The backbone itself, or a copy put together from slices; every process calls it."""
    state = backbone.state_dict()
    if not any(isinstance(value, DTensor) for value in state.values()):
        return backbone
    with torch.device("meta"):
        copy = build_backbone(backbone.config)
    copy.load_state_dict({name: _whole(value) for name, value in state.items()}, assign=True)
    return copy.eval().requires_grad_(False)


def whole_head(model: DINOv2) -> DINOv2Head:
    """The teacher's head for CLS tokens, or a copy put together from slices; every process calls it."""
    state = model.teacher_head.state_dict()
    if not any(isinstance(value, DTensor) for value in state.values()):
        return model.teacher_head
    with torch.device("meta"):
        copy = Network.build(model.teacher_backbone.config, model.objective).head
    copy.load_state_dict({name: _whole(value) for name, value in state.items()}, assign=True)
    return copy.eval().requires_grad_(False)


def whole_number(value: Tensor) -> float:
    """A 0-d tensor as a number, summed over slices where it came from some; every process must call it."""
    return float(_whole(value))


def whole_tensors(tensors: Mapping[str, Tensor], prefix: str, *, keep: bool) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, without it, put together from their slices.

    Every process must call it; only those that `keep` them get any.
    """
    found = {name.removeprefix(prefix): tensors[name] for name in tensors if name.startswith(prefix)}
    whole = ((name, _whole(value)) for name, value in found.items())
    return {name: value for name, value in whole if keep}


def _whole(value: Tensor) -> Tensor:
    return value.full_tensor() if isinstance(value, DTensor) else value
