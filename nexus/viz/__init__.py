"""Pictures by which people judge a training: patch-PCA, loss curves, nearest neighbours."""

from nexus.viz.curves import curves_figure, read_metrics
from nexus.viz.neighbors import Neighbors, Tile, nearest, neighbor_grid
from nexus.viz.pca import PcaBasis, fit_basis, patch_pca

__all__ = [
    "Neighbors",
    "PcaBasis",
    "Tile",
    "curves_figure",
    "fit_basis",
    "nearest",
    "neighbor_grid",
    "patch_pca",
    "read_metrics",
]
