"""Images from anywhere: folders, lists, archives, tables, arrays, videos, other machines, drawings."""

from nexus.data.datasets.base import ImageDataset, Subset
from nexus.data.datasets.folder import FileDataset
from nexus.data.datasets.joined import JoinedDataset, MixtureDataset
from nexus.data.datasets.opening import available_splits, open_dataset
from nexus.data.datasets.scan import ScanReport, scan
from nexus.data.datasets.shards import ShardDataset
from nexus.data.datasets.synthetic import SyntheticDataset
from nexus.data.datasets.zips import ZipDataset

__all__ = [
    "FileDataset",
    "ImageDataset",
    "JoinedDataset",
    "MixtureDataset",
    "ScanReport",
    "ShardDataset",
    "Subset",
    "SyntheticDataset",
    "ZipDataset",
    "available_splits",
    "open_dataset",
    "scan",
]
