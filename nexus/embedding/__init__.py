"""Features in memory, of arrays, or streamed into files; `nexus.embed`.

::

    door          embed and embed_images
    backbones     what stands for a model
    job           from a data set to a feature file, resumable at any moment
    cache         features that evaluations share, kept by content
    shared        one of its tables
    locks         one process at a time
    fingerprint   what features depend on
    partial       columns that grow on disk and survive a kill
    formats       from columns to .parquet, .npy, .safetensors
"""

from nexus.embedding.backbones import Encoder, load_backbone
from nexus.embedding.cache import FeatureCache
from nexus.embedding.door import embed, embed_images
from nexus.embedding.job import Written

__all__ = ["Encoder", "FeatureCache", "Written", "embed", "embed_images", "load_backbone"]
