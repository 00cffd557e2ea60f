"""Object detection and instance segmentation: Mask R-CNN on a frozen or fine-tuned backbone."""
