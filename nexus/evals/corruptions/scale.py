"""How the strength of a corruption follows the size of the picture."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

SIDE = 224
"""Strengths are given for a shorter side of so many pixels."""

Pixels = Float[np.ndarray, "height width 3"]
"""Red, green and blue in 0..1."""


@dataclass(frozen=True)
class Scale:
    """What to multiply strengths by, so that a severity looks alike in all sizes."""

    length: float
    """For lengths in pixels: radii, shifts, flakes. 1 at a shorter side of 224."""

    @classmethod
    def of(cls, height: int, width: int) -> "Scale":
        """The scale of a picture of that size."""
        return cls(min(height, width) / SIDE)

    @property
    def dirt(self) -> float:
        """For what happens to single pixels, of which few average less away: the root, but 1 at most."""
        return min(1.0, self.length**0.5)
