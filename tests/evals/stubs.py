"""A tiny backbone and a data set in memory, for tests that need features but no real model."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from nexus.data.batch import Sample
from nexus.errors import ImageError


class TinyBackbone(nn.Module):
    """Patch means through one linear layer per block; CLS is the mean token. Records what it saw."""

    def __init__(self, dim: int = 6, patch: int = 8, blocks: int = 3) -> None:
        super().__init__()
        self.embed_dim, self.patch_size, self.n_blocks = dim, patch, blocks
        self.blocks = nn.ModuleList(nn.Linear(3 if i == 0 else dim, dim) for i in range(blocks))
        self.drop = nn.Dropout(0.5)
        self.shapes: list[tuple[int, ...]] = []
        self.was_training: list[bool] = []

    def get_intermediate_layers(
        self,
        x: Tensor,
        n: int = 1,
        reshape: bool = False,
        return_class_token: bool = False,
        norm: bool = True,
    ):
        assert return_class_token
        assert norm
        assert not reshape
        self.shapes.append(tuple(x.shape))
        self.was_training.append(self.training)
        tokens = nn.functional.avg_pool2d(x, self.patch_size).flatten(2).transpose(1, 2)
        outputs = []
        for block in self.blocks:
            tokens = self.drop(torch.tanh(block(tokens)))
            outputs.append((tokens, tokens.mean(1) ** 2))
        return tuple(outputs[-n:])

    def forward_features(self, x: Tensor):
        patches, cls = self.get_intermediate_layers(x, 1, return_class_token=True)[0]
        return {"x_norm_clstoken": cls, "x_norm_patchtokens": patches}


class MemoryImages:
    """Random images in memory; those in `broken` cannot be read; labels cycle through `classes`."""

    def __init__(self, count: int = 11, side: int = 40, classes: int = 3, broken=()) -> None:
        rng = np.random.default_rng(0)
        self.pixels = rng.integers(0, 256, (count, side, side + 6, 3), dtype=np.uint8)
        self.labels = np.arange(count) % classes if classes else None
        self.broken = set(broken)

    def __len__(self) -> int:
        return len(self.pixels)

    def name(self, index: int) -> str:
        return f"c/{index:03d}.png"

    def __getitem__(self, index: int) -> Sample:
        if index in self.broken:
            raise ImageError(self.name(index), "truncated")
        label = -1 if self.labels is None else int(self.labels[index])
        return Sample(Image.fromarray(self.pixels[index]), self.name(index), index, label)
