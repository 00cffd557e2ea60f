"""Self-supervised visual features: DINOv2, complete, for anybody with a folder of images."""

__version__ = "0.1.0"
