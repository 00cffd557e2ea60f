"""One row of numbers for every image of a search, of the kind that the settings ask for."""

import logging

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from nexus.data.datasets import ImageDataset
from nexus.errors import ConfigError
from nexus.evals.context import EvalContext
from nexus.evals.retrieval.config import RetrievalConfig
from nexus.evals.retrieval.search import Search
from nexus.evals.retrieval.whitening import learn_whitening
from nexus.features import iterate

log = logging.getLogger(__name__)

Rows = tuple[Float[Tensor, "_ _"], tuple[str, ...]]
"""A row for each image, zeros where it cannot be read, and the names of those."""

SMALLEST = 1e-6
"""What patch features are raised to before a power is taken of them."""


def search_features(context: EvalContext, found: Search, config: RetrievalConfig) -> tuple[Rows, Rows]:
    """Rows of the queries and of the gallery, whitened if the settings say so.

    Raises `ConfigError` where whitening has no training images to learn from.
    """
    queries, gallery = (image_rows(context, part, config) for part in (found.queries, found.gallery))
    if config.whiten is None:
        return queries, gallery
    if found.train is None:
        raise ConfigError(
            f"whiten={config.whiten} needs a training split, and {found.gallery.description} has none; "
            "leave whitening out, or give the source a split called train"
        )
    rows, broken = image_rows(context, found.train, config)
    lost = set(broken)
    readable = [i for i in range(len(found.train)) if found.train.name(i) not in lost]
    whitening = learn_whitening(rows[readable], config.whiten)
    log.info("whitening learned on %d training images", len(readable))
    return (whitening(queries[0]), queries[1]), (whitening(gallery[0]), gallery[1])


def image_rows(context: EvalContext, dataset: ImageDataset, config: RetrievalConfig) -> Rows:
    """The rows of one data set, in its order."""
    names, rows, broken = (
        _gem(context, dataset, config) if config.feature == "gem" else _pooled(context, dataset, config)
    )
    at = {name: row for row, name in enumerate(names)}
    full = rows.new_zeros(len(dataset), rows.shape[1])
    known = [i for i in range(len(dataset)) if dataset.name(i) in at]
    full[known] = rows[[at[dataset.name(i)] for i in known]]
    return full, broken


Found = tuple[tuple[str, ...], Tensor, tuple[str, ...]]


def _pooled(context: EvalContext, dataset: ImageDataset, config: RetrievalConfig) -> Found:
    features = context.features(dataset)
    kinds = {
        "cls": lambda: features.cls,
        "mean_patch": lambda: features.mean_patch,
        "cls_mean": lambda: torch.cat([F.normalize(features.cls), F.normalize(features.mean_patch)], dim=1),
    }
    return features.names, kinds[config.feature](), tuple(fault.name for fault in features.faults)


def _gem(context: EvalContext, dataset: ImageDataset, config: RetrievalConfig) -> Found:
    names: list[str] = []
    rows, broken = [], []
    batches = iterate(context.backbone, dataset, context.view, patches=True, progress=context.progress)
    for batch in batches:
        assert batch.patches is not None
        names += batch.names
        broken += [fault.name for fault in batch.faults]
        rows.append(generalised_mean(batch.patches, config.gem_power))
    return tuple(names), torch.cat(rows), tuple(broken)


def generalised_mean(
    patches: Float[Tensor, "images patches dim"], power: float
) -> Float[Tensor, "images dim"]:
    """`(mean of max(x, 0)^p)^(1/p)` over the patches (Radenović et al., arXiv 1711.02512)."""
    return patches.clamp_min(SMALLEST).pow(power).mean(dim=1).pow(1 / power)
