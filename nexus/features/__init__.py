"""Frozen features: what a backbone says about images. Everything that uses a trained model starts here.

::

    for rows in iterate(backbone, dataset):     one batch at a time, constant memory
    features = extract(backbone, dataset)       all of them, in the order of the data set
    found = image_features(backbone, images)    everything about a tensor of images

    view        how images are shown to a backbone
    pixels      from a data set to batches of bytes
    arrays      from arrays of any kind to normalised images
    outputs     from normalised images to named columns: CLS, registers, patches, their mean, any layer
    tables      features of a data set
    extraction  all of them together
    adapter     what a model of another library must say
"""

from nexus.devices import pick_device
from nexus.features.adapter import Shown, TokenBackbone
from nexus.features.arrays import unit_range
from nexus.features.extraction import eval_mode, extract, iterate, place_on, raw_pixels
from nexus.features.outputs import Backbone, ImageFeatures, LayerFeatures, Wanted, image_features
from nexus.features.pixels import ImageSource
from nexus.features.tables import FeatureRows, Features, collect, joined_features
from nexus.features.view import Progress, View, image_size, make_view

__all__ = [
    "Backbone",
    "FeatureRows",
    "Features",
    "ImageFeatures",
    "ImageSource",
    "LayerFeatures",
    "Progress",
    "Shown",
    "TokenBackbone",
    "View",
    "Wanted",
    "collect",
    "eval_mode",
    "extract",
    "image_features",
    "image_size",
    "iterate",
    "joined_features",
    "make_view",
    "pick_device",
    "place_on",
    "raw_pixels",
    "unit_range",
]
