"""Self-supervised methods."""

from nexus.data.multicrop import MultiCropAugmentation
from nexus.models.ssl.dinov2 import DINOv2, ObjectiveConfig

__all__ = ["DINOv2", "MultiCropAugmentation", "ObjectiveConfig"]
