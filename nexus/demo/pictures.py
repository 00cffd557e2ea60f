"""The pictures of the demo's report: crops and masks, patch-PCA of whole photos, nearest neighbours."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from nexus.data.batch import Sample
from nexus.data.contact_sheet import contact_sheet
from nexus.data.datasets import ImageDataset, open_dataset
from nexus.data.masking import BlockMasker
from nexus.data.multicrop import MultiCropAugmentation
from nexus.demo.report import PcaExample, Sheet
from nexus.demo.source import Mosaic, demo_data, mosaic, whole_photo
from nexus.drawing.images import colors_to_image
from nexus.features import View, extract, iterate
from nexus.models.vision import VisionTransformer
from nexus.training import TrainConfig
from nexus.viz import Neighbors, Tile, fit_basis, nearest

SHEET_PHOTOS = ("butterfly", "abbey")
PCA_PHOTOS = ("stones", "daisy", "offices")
"""They share sky and leaves, so that equal colours across photos can be seen."""
NEIGHBORS = 5
MASKS_DRAWN = 4


def crop_sheets(config: TrainConfig, patch: int) -> list[Sheet]:
    """Crops and masks of training tiles, as this run draws them."""
    dataset = open_dataset(demo_data(), "train")
    side = config.crops.global_size // patch
    masker = BlockMasker(config.masks, side, side)
    sheets = []
    for number, photo in enumerate(SHEET_PHOTOS):
        rng = np.random.default_rng(number)
        tile = dataset[tile_of(dataset, photo, contrast=1)].image
        crops = MultiCropAugmentation(config=config.crops).crops(tile, rng)
        masks = masker.batch(MASKS_DRAWN, rng)
        order = masks.sum(dim=1).argsort(descending=True)
        image = contact_sheet(tile, crops, masks[order[[0, -1]]])
        sheets.append(Sheet(image, f"a tile of {photo}"))
    return sheets


def tile_of(dataset: ImageDataset, photo: str, contrast: float) -> int:
    """A tile of a photo chosen by no model: above it in contrast lies a share of 1 - `contrast` of them.

    0.5 is a typical tile, 1 the one with the most contrast.
    """
    assert dataset.labels is not None
    rows = np.flatnonzero(dataset.labels == dataset.classes.index(photo)).tolist()
    ranked: list[int] = sorted(rows, key=lambda row: _contrast(dataset[row].image))
    return ranked[min(int(contrast * len(ranked)), len(ranked) - 1)]


def _contrast(image: Image.Image) -> float:
    """Standard deviation of the brightness."""
    return float(np.asarray(image.convert("L")).std())


def photo_colors(before: VisionTransformer, after: VisionTransformer, size: int) -> list[PcaExample]:
    """Patch-PCA of whole photos; each model has one basis for all of them."""
    dataset = open_dataset(demo_data(), None)
    plans = [mosaic(dataset, photo) for photo in PCA_PHOTOS]
    maps = [_color_maps(model, dataset, plans, size) for model in (before, after)]
    return [
        PcaExample(whole_photo(photo), first, second, photo)
        for photo, first, second in zip(PCA_PHOTOS, *maps, strict=True)
    ]


def _color_maps(
    model: VisionTransformer, dataset: ImageDataset, plans: Sequence[Mosaic], size: int
) -> list[Image.Image]:
    """One picture per photo, one pixel per patch. Tiles are shown whole, each one by itself."""
    tiles = dataset.subset([index for plan in plans for index in plan.tiles])
    view = View(size=size, resize=size)
    found = [rows.patches for rows in iterate(model, tiles, view, patches=True)]
    patches = torch.cat([part for part in found if part is not None])
    side = round(patches.shape[1] ** 0.5)
    colors = fit_basis(patches, side, side).colors(patches).unflatten(1, (side, side))
    parts = colors.split([len(plan.tiles) for plan in plans])
    return [colors_to_image(assemble(part, plan)) for part, plan in zip(parts, plans, strict=True)]


def assemble(tiles: Float[Tensor, "tiles height width 3"], plan: Mosaic) -> Float[Tensor, "rows cols 3"]:
    """Maps of the tiles of a photo, laid side by side as the tiles were in the photo."""
    grid = tiles.unflatten(0, (plan.rows, plan.columns))
    return grid.transpose(1, 2).flatten(2, 3).flatten(0, 1)


def tile_neighbors(before: VisionTransformer, after: VisionTransformer, size: int) -> list[Neighbors]:
    """The training tiles nearest to a typical test tile of each photo, by both models."""
    bank, test = (open_dataset(demo_data(), split) for split in ("train", "test"))
    queries = test.subset([tile_of(test, photo, contrast=0.5) for photo in test.classes])
    found = [_nearest_tiles(model, queries, bank, size) for model in (before, after)]
    return [
        Neighbors(_tile(queries[row], test.classes), first, second)
        for row, (first, second) in enumerate(zip(*found, strict=True))
    ]


def _nearest_tiles(
    model: VisionTransformer, queries: ImageDataset, bank: ImageDataset, size: int
) -> list[list[Tile]]:
    asked, known = (extract(model, dataset, size=size).cls for dataset in (queries, bank))
    index, _ = nearest(asked, known, NEIGHBORS)
    return [[_tile(bank[i], bank.classes) for i in row] for row in index.tolist()]


def _tile(sample: Sample, classes: tuple[str, ...]) -> Tile:
    return Tile(sample.image, classes[sample.label])
