"""Drawn images whose truth per pixel is known: colours that are labels, shades that are depths."""

from pathlib import Path

import numpy as np

from tests.data.making_dense import save

COLOURS = np.array([(200, 40, 40), (40, 180, 60), (50, 60, 210)], dtype=np.uint8)


def labelled(root: Path, count: int = 12, *, noise: bool = False, side: int = 8) -> Path:
    """Images of 4 × 5 squares; their colour is their label, unless `noise`."""
    rng = np.random.default_rng(0)
    for i in range(count):
        grid = rng.integers(0, 3, (4, 5))
        shown = rng.integers(0, 3, (4, 5)) if noise else grid
        pixels = COLOURS[shown].repeat(side, 0).repeat(side, 1)
        pixels = np.clip(pixels + rng.normal(0, 6, pixels.shape), 0, 255).astype(np.uint8)
        labels = grid.repeat(side, 0).repeat(side, 1).astype(np.uint8)
        labels[:2, :3] = 255
        split = "train" if i < 2 * count // 3 else "test"
        save(root / "images" / split / f"{i:02d}.png", pixels)
        save(root / "masks" / split / f"{i:02d}.png", labels)
    (root / "classes.txt").write_text("red\ngreen\nblue\n")
    return root


def measured(root: Path, count: int = 12, *, sparse: bool = False, noise: bool = False) -> Path:
    """Images of 32 × 40 pixels in bands of grey: the brighter, the nearer (1 to 9 metres), in millimetres."""
    rng = np.random.default_rng(1)
    for i in range(count):
        shade = rng.uniform(0, 1, (4, 5)).repeat(8, 0).repeat(8, 1)
        metres = 1 + 8 * (1 - shade)
        shown = rng.uniform(0, 1, (4, 5)).repeat(8, 0).repeat(8, 1) if noise else shade
        pixels = (30 + 200 * shown[..., None] + np.zeros(3)).astype(np.uint8)
        stored = (1000 * metres).astype(np.uint16)
        stored[:3] = 0
        if sparse:
            stored[rng.random(stored.shape) > 0.1] = 0
        split = "train" if i < 2 * count // 3 else "test"
        save(root / "images" / split / f"{i:02d}.png", pixels)
        save(root / "depth" / split / f"{i:02d}.png", stored)
    return root
