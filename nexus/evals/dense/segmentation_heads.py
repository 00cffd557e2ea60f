"""What makes labels of frozen patch tokens: a linear head, and neighbours in a memory of labelled patches."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from nexus.data.dense import VOID
from nexus.evals.dense.maps import Maps

INIT_STD = 0.01


class LinearHead(nn.Module):
    """Batch norm over the concatenated layers, then one linear map per patch (a 1 × 1 convolution).

    Weights from N(0, 0.01), bias 0, as in the official configuration.
    """

    def __init__(self, width: int, classes: int, seed: int = 0) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(width)
        self.classify = nn.Conv2d(width, classes, kernel_size=1)
        nn.init.normal_(self.classify.weight, std=INIT_STD, generator=torch.Generator().manual_seed(seed))
        nn.init.constant_(self.classify.bias, 0.0)  # type: ignore[arg-type]

    def forward(self, maps: Maps) -> Float[Tensor, "batch classes rows cols"]:
        """Logits of each patch."""
        return self.classify(self.norm(torch.cat([layer.patches for layer in maps], dim=1)))


def segmentation_loss(
    logits: Float[Tensor, "batch classes rows cols"], truth: Int[Tensor, "batch height width"]
) -> Float[Tensor, ""]:
    """Cross-entropy of the logits, upsampled (bilinear) to pixels, over the pixels that have a label."""
    upsampled = F.interpolate(logits, size=truth.shape[1:], mode="bilinear", align_corners=False)
    total = F.cross_entropy(upsampled, truth.long(), ignore_index=VOID, reduction="sum")
    return total / (truth != VOID).sum().clamp(min=1)


class NeighborHead(nn.Module):
    """k-NN on patches, without training: similar patches of the training images vote with their labels.

    Votes are weighted by softmax(cosine / temperature) over the k nearest; only the last layer is used.
    """

    memory: Tensor
    labels: Tensor

    def __init__(
        self,
        memory: Float[Tensor, "patches dim"],
        labels: Int[Tensor, " patches"],
        classes: int,
        neighbors: int,
        temperature: float,
    ) -> None:
        super().__init__()
        self.classes, self.neighbors, self.temperature = classes, min(neighbors, len(labels)), temperature
        self.register_buffer("memory", F.normalize(memory, dim=1))
        self.register_buffer("labels", labels.long())

    def forward(self, maps: Maps) -> Float[Tensor, "batch classes rows cols"]:
        """The share of the votes of each class, for each patch."""
        patches = maps[-1].patches
        batch, _, rows, cols = patches.shape
        queries = F.normalize(patches.flatten(2).transpose(1, 2).flatten(0, 1), dim=1)
        votes = [self._votes(part) for part in queries.split(4096)]
        return torch.cat(votes).view(batch, rows * cols, -1).transpose(1, 2).unflatten(2, (rows, cols))

    def _votes(self, queries: Float[Tensor, "queries dim"]) -> Float[Tensor, "queries classes"]:
        similar, nearest = (queries @ self.memory.T).topk(self.neighbors, dim=1)
        weights = (similar / self.temperature).softmax(dim=1)
        votes = weights.new_zeros(len(queries), self.classes)
        return votes.scatter_add_(1, self.labels[nearest], weights)


def patch_labels(
    truths: Int[Tensor, "batch height width"], patch: int, classes: int
) -> Int[Tensor, "batch rows cols"]:
    """The commonest label in each patch, the lower one of equals; `VOID` where half or more is void."""
    batch, height, width = truths.shape
    rows, cols = height // patch, width // patch
    tiles = truths[:, : rows * patch, : cols * patch].unflatten(2, (cols, patch)).unflatten(1, (rows, patch))
    pixels = tiles.permute(0, 1, 3, 2, 4).reshape(batch * rows * cols, patch * patch).long()
    counts = torch.zeros(len(pixels), classes + 1, dtype=torch.long)
    counts.scatter_add_(1, torch.where(pixels == VOID, classes, pixels), torch.ones_like(pixels))
    found = counts[:, :classes].argmax(1)
    found[2 * counts[:, classes] >= patch * patch] = VOID
    return found.view(batch, rows, cols)
