"""Images with a truth for every pixel: label maps and depth maps, in the layouts that people have on disk."""

from nexus.data.dense.dataset import VOID, DenseDataset, DenseSample
from nexus.data.dense.depth_maps import DepthReader
from nexus.data.dense.label_maps import LabelReader
from nexus.data.dense.layout import Layout
from nexus.data.dense.opening import DenseSource, open_depth, open_labels
from nexus.data.dense.pairs import Pair

__all__ = [
    "VOID",
    "DenseDataset",
    "DenseSample",
    "DenseSource",
    "DepthReader",
    "LabelReader",
    "Layout",
    "Pair",
    "open_depth",
    "open_labels",
]
