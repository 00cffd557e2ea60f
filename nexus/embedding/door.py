"""`nexus.embed`, and the same for images that are in memory already."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

from torch import nn

from nexus.data.datasets import open_dataset
from nexus.embedding.backbones import Encoder, load_backbone
from nexus.embedding.job import Job, Written, partial_folder, refuse
from nexus.errors import ConfigError
from nexus.features import (
    Features,
    ImageFeatures,
    ImageSource,
    Progress,
    View,
    Wanted,
    eval_mode,
    image_features,
    make_view,
    place_on,
    unit_range,
)
from nexus.features.arrays import normalized
from nexus.features.extraction import extract, normalization_of
from nexus.models.vision.fitting import fit_sentence

log = logging.getLogger(__name__)

Data = str | Path | list[str | Path] | tuple[str | Path, ...] | ImageSource
Model = str | Path | nn.Module


@overload
def embed(
    data: Data,
    model: Model,
    out: None = None,
    *,
    encoder: Encoder = ...,
    progress: Progress | None = ...,
    view: View | None = ...,
    **settings: Any,
) -> Features: ...


@overload
def embed(
    data: Data,
    model: Model,
    out: str | Path,
    *,
    features: Sequence[str] = ...,
    layers: Sequence[int] = ...,
    dtype: str = ...,
    overwrite: bool = ...,
    encoder: Encoder = ...,
    progress: Progress | None = ...,
    view: View | None = ...,
    **settings: Any,
) -> Written: ...


def embed(
    data: Data,
    model: Model,
    out: str | Path | None = None,
    *,
    features: Sequence[str] = ("cls", "mean_patch"),
    layers: Sequence[int] = (-1,),
    dtype: str = "float32",
    overwrite: bool = False,
    encoder: Encoder = "teacher",
    progress: Progress | None = None,
    view: View | None = None,
    **settings: Any,
) -> Features | Written:
    """The frozen features of every image of `data`: in memory, or streamed to the file `out`.

    `data` is anything `open_dataset` takes, or a data set; `model` anything `nexus.load` takes, or a module.
    `settings` are the fields of `nexus.features.View`: `size`, `fit`, `resize`, `batch_size`, `workers`,
    `device` (default `"auto"`), `precision`, `mean`, `std`.

    Without `out` the result is a `Features`: CLS and mean patch of the last layer.

    With `out` (`.parquet`, `.npy` or `.safetensors`) the memory is constant and the result says what was
    written. `features` are among `cls`, `mean_patch`, `patches`, `registers`; `layers` count from 1, or from
    the end with -1; `dtype` is `float32` or `float16`. A job that was stopped, by whatever, leaves
    `out.partial`, and the same call goes on there; the file is then the same as without the stop.
    Images that cannot be read are left out and listed in `NAME.unreadable.csv` beside it.

    Raises `ConfigError` for settings, `DataError` without one readable image, `WeightsError` for the model,
    `RunError` where a file is in the way or the disk refuses.
    """
    if view is None:
        settings.setdefault("device", "auto")
    view = make_view(view, settings)
    wanted = Wanted(tuple(features), tuple(layers))
    if out is None:
        if wanted != Wanted() or dtype != "float32":
            raise ConfigError(
                "features, layers and dtype go to a file: name out=FILE, or take them from"
                " nexus.embedding.embed_images"
            )
        return extract(load_backbone(model, encoder), _opened(data), view, progress=progress)
    out = Path(out)
    if not partial_folder(out).exists():
        refuse(out, overwrite)
    backbone = load_backbone(model, encoder)
    return Job(backbone, _opened(data), out, view, wanted, dtype, overwrite).run(progress)


def embed_images(
    images: Any,
    model: Model,
    *,
    layers: Sequence[int] = (),
    attention: Sequence[int] = (),
    fit: str = "resize",
    precision: str = "fp32",
    device: str | None = None,
    encoder: Encoder = "teacher",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> ImageFeatures:
    """Everything that a model says about images in memory: CLS, registers, patch maps, layers, attention.

    `images` is an array or tensor (batch, chans, height, width) or (chans, height, width) of any size, or
    PIL images; whole numbers are scaled by their type and floats must lie within 0..1, as
    `nexus.features.arrays` states. They are seen whole, at their own size, `fit` onto patches; resize them
    before to look at another size. `layers` and `attention` name layers counted from 1, or from the end with
    -1. All of them are computed in one batch.

    Raises `ConfigError` for images, sizes, channels and layers that do not fit.
    """
    backbone = load_backbone(model, encoder)
    view = View(
        device=device,
        precision=precision,
        fit=fit,
        mean=None if mean is None else tuple(mean),
        std=None if std is None else tuple(std),
    )
    chans = getattr(getattr(backbone, "config", None), "in_chans", 3)
    scaled = unit_range(images, chans)
    where = place_on(backbone, view.device)
    centre, spread = (part.tolist() for part in normalization_of(backbone, view))
    with eval_mode(backbone):
        found = image_features(
            backbone,
            normalized(scaled.to(where), centre, spread),
            layers=layers,
            attention=attention,
            fit=fit,
            precision=precision,
        )
    if (sentence := fit_sentence(found.placement, fit)) is not None:
        log.info("%s", sentence)
    return found


def _opened(data: Data) -> ImageSource:
    """`data` itself if it is a data set; text and lists have a length and items too, but name sources."""
    if isinstance(data, str | Path | list | tuple) or not isinstance(data, ImageSource):
        return open_dataset(data)
    return data
