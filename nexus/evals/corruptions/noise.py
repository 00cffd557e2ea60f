"""What sensors and transmission do to single pixels. Pixels are (height, width, 3) in 0..1."""

import numpy as np

from nexus.evals.corruptions.scale import Pixels, Scale


def gaussian(x: Pixels, sd: float, scale: Scale, rng: np.random.Generator) -> Pixels:
    """Normal noise of standard deviation `sd`: an amplifier in the dark."""
    return x + rng.normal(0, sd * scale.dirt, x.shape).astype(np.float32)


def shot(x: Pixels, photons: float, scale: Scale, rng: np.random.Generator) -> Pixels:
    """Counted photons, `photons` of them where a channel is white: too little light."""
    photons /= scale.dirt**2
    return (rng.poisson(np.clip(x, 0, 1) * photons) / photons).astype(np.float32)


def impulse(x: Pixels, share: float, scale: Scale, rng: np.random.Generator) -> Pixels:
    """A `share` of all values becomes 0 or 1: bits that flipped on the way."""
    hit = rng.random(x.shape) < share * scale.dirt
    return np.where(hit, (rng.random(x.shape) < 0.5).astype(np.float32), x)
