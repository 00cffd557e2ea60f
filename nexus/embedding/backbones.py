"""What stands for a model: a module, or anything that `nexus.load` takes."""

from pathlib import Path
from typing import Any, Literal

from torch import nn

Encoder = Literal["teacher", "student"]
"""Which backbone of a run folder."""


def load_backbone(model: str | Path | nn.Module, encoder: Encoder = "teacher") -> Any:
    """`model` itself if it is a module, else what `nexus.load` makes of it."""
    if isinstance(model, nn.Module):
        return model
    from nexus import weights

    return weights.load(model, encoder=encoder)
