"""From what a user types to a running training: settings, data, run folder, loop."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nexus.config import Tree, build, from_dotted, merge, parse_overrides, read_yaml
from nexus.data.datasets import ImageDataset, available_splits, open_dataset, scan
from nexus.data.images import ImageLimits
from nexus.errors import ConfigError
from nexus.log import logger
from nexus.training.auto import DataFacts, automatic, drop_auto
from nexus.training.config import TrainConfig
from nexus.training.loop import RunResult, run
from nexus.training.recipes import read_recipe
from nexus.training.run import RunFolder
from nexus.training.state import vit_config


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
    build(TrainConfig, given)  # complain about typos before looking at the data
    if not given.get("data", {}).get("source"):
        raise ConfigError("no data given: --data takes a folder, glob, list, tar, zip or pack")
    dataset, facts = open_data(given)
    settings, choices = automatic(given, facts)
    config = build(TrainConfig, settings)
    check(config, dataset)
    folder.create(overwrite=overwrite)
    for choice in choices:
        logger.info("auto  %s", choice)
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
    patch = vit_config(config.model, config.crops.global_size).patch_size
    for name in ("global_size", "local_size"):
        size = getattr(config.crops, name)
        if size % patch:
            better = max(1, round(size / patch)) * patch
            raise ConfigError(
                f"crops.{name}={size} is not a multiple of the patch size {patch} of {config.model.arch}; "
                f"use {better}"
            )
    if config.schedule.batch_size // config.schedule.accumulation < 2 and (config.objective.koleo_weight > 0):
        raise ConfigError(
            "schedule.batch_size / schedule.accumulation is 1, but KoLeo compares images with each "
            "other; use 2 or more, or objective.koleo_weight=0"
        )
    if not len(dataset):
        raise ConfigError(f"{dataset.description} holds no images")
