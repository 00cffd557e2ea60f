"""The backbone: the vision transformer of DINOv2, with or without registers, in every released size."""

from nexus.models.vision.config import ViTConfig
from nexus.models.vision.presets import ARCHITECTURES, architecture
from nexus.models.vision.vit import Features, VisionTransformer, build_backbone

__all__ = [
    "ARCHITECTURES",
    "Features",
    "ViTConfig",
    "VisionTransformer",
    "architecture",
    "build_backbone",
]
