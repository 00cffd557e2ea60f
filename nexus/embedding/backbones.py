"""What stands for a model: a module, or anything that `nexus.load` takes."""

from pathlib import Path
from typing import Any, Literal

from torch import nn

from nexus.embedding.foreign import is_foreign, open_foreign
from nexus.errors import ConfigError
from nexus.features import Backbone

Encoder = Literal["teacher", "student"]
"""Which backbone of a run folder."""


def load_backbone(model: str | Path | nn.Module, encoder: Encoder = "teacher") -> Any:
    """`model` if it is a module, one of another library (`timm:`, `hf:`), or what `nexus.load` makes."""
    if isinstance(model, nn.Module):
        if not isinstance(model, Backbone):
            raise ConfigError(
                f"a {type(model).__name__} is no backbone: it lacks embed_dim, patch_size, forward_features "
                "or get_intermediate_layers; of a DINOv2 pass model.teacher_backbone, another model can be "
                "wrapped in a nexus.features.TokenBackbone"
            )
        return model
    if not isinstance(model, str | Path):
        raise ConfigError(
            f"model={model!r} is no model; give a run folder, a weight file, a name or a module"
        )
    if isinstance(model, str) and is_foreign(model):
        return open_foreign(model)
    from nexus import weights

    return weights.load(model, encoder=encoder)
