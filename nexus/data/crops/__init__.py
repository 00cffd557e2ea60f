"""Multi-crop augmentation: settings, random decisions, and three engines that carry them out."""
