"""What stands for a model: a module, or anything that `nexus.load` takes."""

from pathlib import Path
from typing import Any, Literal

from torch import nn

from nexus.errors import ConfigError
from nexus.features import Backbone

Encoder = Literal["teacher", "student"]
"""Which backbone of a run folder."""


def load_backbone(model: str | Path | nn.Module, encoder: Encoder = "teacher") -> Any:
    """`model` itself if it is a module, else what `nexus.load` makes of it."""
    if isinstance(model, nn.Module):
        if not isinstance(model, Backbone):
            raise ConfigError(
                f"a {type(model).__name__} is no backbone: it lacks embed_dim, patch_size, forward_features "
                "or get_intermediate_layers; of a DINOv2 pass model.teacher_backbone"
            )
        return model
    if not isinstance(model, str | Path):
        raise ConfigError(
            f"model={model!r} is no model; give a run folder, a weight file, a name or a module"
        )
    from nexus import weights

    return weights.load(model, encoder=encoder)
