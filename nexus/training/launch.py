"""From what a user types to a running training: settings, data, run folder, loop."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nexus.config import Tree, build, from_dotted, merge, parse_overrides, read_yaml
from nexus.data.datasets import ImageDataset, available_splits, open_dataset, scan
from nexus.data.images import ImageLimits
from nexus.devices import pick_device
from nexus.errors import ConfigError
from nexus.log import logger
from nexus.models.vision import build_backbone
from nexus.training.auto import DataFacts, automatic, drop_auto
from nexus.training.config import TrainConfig
from nexus.training.loop import RunResult, run
from nexus.training.recipes import read_recipe
from nexus.training.run import RunFolder
from nexus.training.state import vit_config
from nexus.training.summary import summary
from nexus.weights import initialise_from


def train(
    data: str | Path | None = None,
    out: str | Path | None = None,
    *,
    model: str | None = None,
    recipe: str | None = None,
    config: str | Path | None = None,
    resume: str | Path | None = None,
    init: str | Path | None = None,
    overwrite: bool = False,
    overrides: Mapping[str, Any] | Sequence[str] = (),
) -> RunResult:
    """Pretrain a backbone on the images in `data` and leave everything in the folder `out`.

    `recipe` and `config` are YAML settings by name or path; `overrides` are dotted settings, as a mapping
    or as `key=value` strings; what nobody sets is chosen for the data and the machine. `resume` names the
    folder of an earlier run and goes on with it. `init` names weights to start a new run from.
    Raises `NexusError` for everything that a user can mend.
    """
    given = _dotted(overrides)
    flags = {"data.source": data, "model.arch": model, "model.init": init}
    given = merge(given, from_dotted({k: str(v) for k, v in flags.items() if v is not None}))
    if resume is not None:
        return _resume(RunFolder(resume), given, out)
    if out is None:
        raise ConfigError("no run folder given: --out says where the run leaves everything")
    layers = [read_recipe(recipe) if recipe else {}, read_yaml(Path(config)) if config else {}]
    return _start(RunFolder(out), merge(*layers, given), overwrite)


def _dotted(overrides: Mapping[str, Any] | Sequence[str]) -> Tree:
    if isinstance(overrides, Mapping):
        return from_dotted({k: str(v) if isinstance(v, Path) else v for k, v in overrides.items()})
    return parse_overrides(overrides)


def _start(folder: RunFolder, given: Tree, overwrite: bool) -> RunResult:
    given = drop_auto(given)
    early = build(TrainConfig, given)  # complain about typos before looking at the data
    vit_config(early.model, early.crops.global_size)
    if "device" in (given.get("compute") or {}):
        pick_device(early.compute.device)
    if not given.get("data", {}).get("source"):
        raise ConfigError("no data given: --data takes a folder, glob, list, tar, zip or pack")
    dataset, facts = open_data(given)
    settings, choices = automatic(given, facts)
    config = build(TrainConfig, settings)
    check(config, dataset)
    if config.model.init:  # before anything is created: a mistake here should leave no folder
        initialise_from(build_backbone(vit_config(config.model, config.crops.global_size)), config.model.init)
    folder.create(overwrite=overwrite)
    for choice in choices:
        logger.info("auto  %s", choice)
    for line in summary(config, len(dataset), folder.path):
        logger.info("%s", line)
    return run(config, dataset, folder)


def _resume(folder: RunFolder, given: Tree, out: str | Path | None) -> RunResult:
    if out is not None and Path(out) != folder.path:
        raise ConfigError(
            f"--resume {folder.path} goes on in that folder; leave out --out, or start a new run from its "
            f"weights with --init {folder.path} --out {out}"
        )
    settings = merge(folder.settings(), drop_auto(given))
    config = build(TrainConfig, settings)
    dataset, _ = open_data(settings)
    check(config, dataset)
    logger.info("resuming %s: %s", folder.path, folder.progress())
    for line in summary(config, len(dataset), folder.path):
        logger.info("%s", line)
    return run(config, dataset, folder)


def open_data(settings: Tree) -> tuple[ImageDataset, DataFacts]:
    """The training images, after saying what was found."""
    data = settings["data"]
    source, split = data["source"], data.get("split")
    if split is None and "train" in available_splits(source):
        split = "train"
        logger.info("data  %s has splits; training on 'train' (data.split chooses)", source)
    dataset = open_dataset(source, split, build(ImageLimits, data.get("limits", {})))
    report = scan(dataset)
    logger.info("data  %s: %s", dataset.description, report.sentence())
    short_side = int(min(report.median_width, report.median_height))
    return dataset, DataFacts(len(dataset), max(short_side, 1), dataset.labels is not None)


def check(config: TrainConfig, dataset: ImageDataset) -> None:
    """Refuse combinations that would only fail, or quietly go wrong, later."""
    pick_device(config.compute.device)
    patch = vit_config(config.model, config.crops.global_size).patch_size
    for name in ("global_size", "local_size"):
        size = getattr(config.crops, name)
        if size % patch:
            better = max(1, round(size / patch)) * patch
            raise ConfigError(
                f"crops.{name}={size} is not a multiple of the patch size {patch} of {config.model.arch}; "
                f"use crops.{name}={better}"
            )
    if not len(dataset):
        raise ConfigError(f"{dataset.description} holds no images")
    if config.objective.koleo_weight > 0:
        _check_koleo(config, len(dataset))


def _check_koleo(config: TrainConfig, images: int) -> None:
    """KoLeo pushes each image away from its nearest neighbour in the micro-batch, so it needs another one."""
    batch, parts = config.schedule.batch_size, config.schedule.accumulation
    off = "or switch KoLeo off with objective.koleo_weight=0"
    if batch // parts < 2:
        raise ConfigError(
            f"schedule.batch_size={batch} in schedule.accumulation={parts} parts is one image at a time, but "
            f"KoLeo compares images with each other; use schedule.batch_size={2 * parts}, {off}"
        )
    if batch // parts > images:
        raise ConfigError(
            f"schedule.batch_size={batch} is more than the {images} images there are, so a step would see an "
            "image twice, and KoLeo would push its two copies apart; use "
            f"{f'schedule.batch_size={images * parts}' if images > 1 else 'more images'}, {off}"
        )
