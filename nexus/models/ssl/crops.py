"""From a list of crops, as the seed document's own loop passes it, to a `Batch` with masks."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from nexus.data.batch import Batch, Masks
from nexus.data.masking import BlockMasker, MaskConfig
from nexus.errors import ConfigError


def batch_of(crops: Sequence[Tensor], masks: MaskConfig, patch: int) -> Batch:
    """`[global 1, global 2, local 1, ...]`, each (images, chans, height, width), as a `Batch`.

    Masks for patches of `patch` pixels are drawn from torch's random state. Raises `ConfigError` where the
    crops do not go together.
    """
    if len(crops) < 2:
        raise ConfigError(f"{len(crops)} crops given; the list starts with two global crops")
    for kind, group in (("global", crops[:2]), ("local", crops[2:])):
        shapes = sorted({tuple(crop.shape) for crop in group})
        if len(shapes) > 1 or any(len(shape) != 4 or shape[0] != len(crops[0]) for shape in shapes):
            raise ConfigError(
                f"the {kind} crops are {' and '.join(map(str, shapes))}; all of a kind need one shape "
                "(images, channels, height, width), with the same images in every crop"
            )
    first = crops[0]
    rows, cols = first.shape[-2] // patch, first.shape[-1] // patch
    rng = np.random.default_rng(int(torch.randint(2**62, ())))
    grid = BlockMasker(masks, rows, cols).batch(2 * first.shape[0], rng)
    return Batch(
        global_crops=torch.cat(list(crops[:2])),
        local_crops=torch.cat(list(crops[2:])) if len(crops) > 2 else first[:0],
        masks=Masks.from_grid(grid.to(first.device)),
        images=first.shape[0],
    )
