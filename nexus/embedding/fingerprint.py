"""What a feature file depends on: if any of it changed, its two halves would not belong together."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from nexus import __version__
from nexus.data.picture import RGB
from nexus.features import ImageSource, View, Wanted

NOT_IN_THE_ROWS = {"workers", "device", "mean", "std"}
"""Fields of a view that change no row; the normalisation is taken as it is used."""


def fingerprint(
    backbone: nn.Module,
    dataset: ImageSource,
    view: View,
    wanted: Wanted,
    dtype: str,
    normalization: tuple[Any, Any],
) -> dict[str, Any]:
    """Names and settings, as JSON holds them. Contents of image files are not read."""
    return {
        "data": f"{getattr(dataset, 'description', type(dataset).__name__)} {_listing(dataset)}",
        **computation(backbone, view, normalization),
        "features": list(wanted.features),
        "layers": list(wanted.layers),
        "dtype": dtype,
    }


def computation(backbone: nn.Module, view: View, normalization: tuple[Any, Any]) -> dict[str, Any]:
    """What features depend on beside the images: weights, view, numbers, as JSON holds them."""
    settings = {name: getattr(view, name) for name in View.__annotations__ if name not in NOT_IN_THE_ROWS}
    first = next(backbone.parameters(), None)
    return {
        "model": weights_digest(backbone),
        **{name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()},
        "pixels": str(getattr(backbone, "look", RGB)),
        "normalization": [part.tolist() for part in normalization],
        "device": "cpu" if first is None else first.device.type,
        "versions": f"nexus {__version__}, torch {torch.__version__}",
    }


def _listing(dataset: Any) -> str:
    """A digest of names and labels in their order; of a foreign source only the number of images."""
    name = getattr(dataset, "name", None)
    count = len(dataset)
    lines: Iterable[str] = (name(index) for index in range(count)) if callable(name) else ()
    digest = hashlib.sha256(f"{count}\n".encode())
    for line in lines:
        digest.update(line.encode("utf-8", "surrogateescape") + b"\0")
    labels = getattr(dataset, "labels", None)
    if labels is not None:
        digest.update(
            bytes(memoryview(labels).cast("B")) if hasattr(labels, "dtype") else repr(labels).encode()
        )
    return digest.hexdigest()[:16]


def weights_digest(backbone: nn.Module) -> str:
    """A digest of every tensor and of the settings."""
    state: Mapping[str, Any] = backbone.state_dict()
    digest = hashlib.sha256(f"{type(backbone).__name__} {getattr(backbone, 'config', '')}".encode())
    for key, value in state.items():
        if isinstance(value, torch.Tensor):
            flat = value.detach().cpu().contiguous().flatten()
            digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
