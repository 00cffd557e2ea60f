"""The settings that all trained heads of dense tasks share."""

from typing import Annotated

from pydantic import Field

from nexus.config import Config, Share

Positive = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0)]


class HeadConfig(Config):
    """From which crops a head learns, and how its learning rate is chosen."""

    batch_size: Positive = 16
    """Crops in a step."""
    views: Positive | None = None
    """Random crops kept of each training image; left out: 8. More is nearer to fresh crops in every step."""
    learning_rates: tuple[Rate, ...] = Field(default=(1e-3, 1e-2), min_length=1)
    """The best on held-out training images is taken; a single one is taken as it is."""
    held_out: Share = 0.2
    """Share of the training images that chooses the learning rate."""
    seed: int = Field(default=0, ge=0)
    """Of crops and weights; further seeds follow it."""
