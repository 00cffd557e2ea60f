"""How large a detector is, and how long it is trained: what the user left out follows the device.

A step of the usual detector takes seconds on a CPU core, most of them at the finest level of the pyramid
and in the regions cut out of it. Without that level, with half the channels and a third of the regions it is
a quarter of a second or so, and a training ends in minutes.
"""

from dataclasses import dataclass, fields, replace

import torch

from nexus.evals.instance.config import InstanceConfig


@dataclass(frozen=True)
class Scale:
    """Sizes of a detector and bounds of its training, by their names in `InstanceConfig`."""

    width: int
    box_width: int
    proposals: int
    finest: int
    min_steps: int
    max_steps: int

    @classmethod
    def of(cls, config: InstanceConfig, device: torch.device) -> "Scale":
        """What the user asked for, and what suits the device."""
        usual = ON_CPU if device.type == "cpu" else USUAL
        asked = {one.name: getattr(config, one.name) for one in fields(cls)}
        return replace(usual, **{name: value for name, value in asked.items() if value is not None})

    def steps(self, config: InstanceConfig, images: int) -> int:
        """The number of steps for this many training images."""
        wanted = -(-config.epochs * images // config.batch_size)
        return min(max(wanted, self.min_steps), self.max_steps)


USUAL = Scale(width=128, box_width=512, proposals=300, finest=4, min_steps=500, max_steps=90_000)
ON_CPU = Scale(width=64, box_width=256, proposals=100, finest=2, min_steps=200, max_steps=600)
