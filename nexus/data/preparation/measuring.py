"""`nexus data stats`: mean and standard deviation of every channel over all pixels of a data set."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nexus.data.channels import ChannelStats, channel_stats, look_at_channels
from nexus.data.datasets import ImageDataset, open_dataset
from nexus.data.parallel import Progress, all_cores
from nexus.data.picture import RGB, Channels, Look


@dataclass(frozen=True)
class Measured:
    """The statistics, and how the images were read for them."""

    description: str
    look: Look
    stats: ChannelStats

    def settings(self) -> list[str]:
        """What to write behind `nexus train`, to train with these numbers."""
        lines = [] if self.look == RGB else ["data.channels=native"]
        if self.look.value_range is not None:
            lines.append(f"data.value_range={list(self.look.value_range)}")
        return [*lines, f"data.mean={list(self.stats.mean)}", f"data.std={list(self.stats.std)}"]

    def as_json(self) -> dict[str, Any]:
        """Everything, for programs."""
        span = self.look.value_range
        return {
            "data": self.description,
            "channels": self.look.channels,
            "value_range": None if span is None else list(span),
            "mean": list(self.stats.mean),
            "std": list(self.stats.std),
            "images": self.stats.images,
            "pixels": self.stats.pixels,
            "unreadable": {fault.name: fault.reason for fault in self.stats.faults},
            "settings": self.settings(),
        }


def measure(
    data: str | Path | ImageDataset,
    channels: Channels = "rgb",
    *,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Measured:
    """Mean and deviation of each channel in 0..1, over all pixels of all images, without those of no data.

    Exact: sums in float64. `native` measures the stored channels; the values that become 0 and 1 are then
    those that a training run would take. `workers` are threads, left out: one for each core. Raises
    `DataError` where nothing can be read, or the images have different numbers of channels.
    """
    dataset = open_dataset(data)
    look = RGB
    if channels == "native":
        look = Look("native", look_at_channels(dataset).value_range)
    threads = all_cores() if workers is None else workers
    stats = channel_stats(dataset.seen_as(look), workers=threads, progress=progress)
    return Measured(dataset.description, look, stats)
