"""Whether tensors can be trusted: they are what was written, of a usable kind, and finite."""

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from nexus.errors import WeightsError

_FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
_SHOWN = 3


def tensors_sha256(tensors: Mapping[str, Tensor], config: str) -> str:
    """The sum of a description and of every tensor's name, type, shape and bytes, whatever their order."""
    digest = hashlib.sha256(config.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def refuse_changed_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Raise `WeightsError` if a file of nexus does not hold what was written; others carry no sum."""
    # Either mark alone says that nexus wrote the file; the other one is missing where it was damaged.
    if metadata.get("format") != "nexus" and "sha256" not in metadata:
        return
    if tensors_sha256(tensors, metadata.get("config", "")) != metadata.get("sha256"):
        raise WeightsError(
            f"{path} is damaged: its tensors are not those that were written (the sha256 inside the file "
            "does not agree); copy it again"
        )


def refuse_unusable(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise `WeightsError` for tensors that are no plain floats, or hold NaN or infinity."""
    for name, tensor in tensors.items():
        kind = _kind(tensor)
        if kind is not None:
            raise WeightsError(
                f"{path}: {name} is {kind}; weights are dense tensors of float16, bfloat16, float32 or "
                "float64: pass the file before it was quantised or converted"
            )
    broken = [name for name, tensor in tensors.items() if not _finite(tensor)]
    if broken:
        more = f" and {len(broken) - _SHOWN} more" if len(broken) > _SHOWN else ""
        raise WeightsError(
            f"{path} holds NaN or infinite values in {', '.join(broken[:_SHOWN])}{more}, so every feature "
            "would be NaN: the training that wrote it diverged, or the file is damaged. Pass an earlier one"
        )


def _kind(tensor: Tensor) -> str | None:
    """What a tensor is, if it cannot be a weight."""
    if tensor.layout is not torch.strided:
        return f"sparse ({str(tensor.layout).removeprefix('torch.')})"
    if tensor.device.type != "cpu":
        return "without data"
    if tensor.is_quantized or tensor.dtype not in _FLOATS:
        return f"of type {str(tensor.dtype).removeprefix('torch.')}"
    return None


def _finite(tensor: Tensor) -> bool:
    if not tensor.numel():
        return True
    low, high = torch.aminmax(tensor.detach())
    return math.isfinite(low) and math.isfinite(high)
