"""From what a user types to a running training: settings, data, run folder, loop."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nexus.config import Tree, build, from_dotted, merge, parse_overrides, read_yaml
from nexus.data.datasets import ImageDataset, available_splits, open_dataset, scan
from nexus.data.images import ImageLimits
from nexus.devices import pick_device
from nexus.errors import ConfigError, DataError
from nexus.evals.splits import labelled_splits, split_labelled
from nexus.log import attach_file, detach, logger
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
        others = {"--recipe": recipe, "--config": config, "--init": init, "--overwrite": overwrite}
        _refuse_beside_resume(resume, [name for name, value in others.items() if value], out)
        return _resume(RunFolder(resume), given)
    if out is None:
        raise ConfigError("no run folder given: --out says where the run leaves everything")
    base = merge(read_recipe(recipe) if recipe else {}, read_yaml(_config_file(config)) if config else {})
    return _start(RunFolder(out), merge(_without_shape(base, given), given), overwrite)


def _dotted(overrides: Mapping[str, Any] | Sequence[str]) -> Tree:
    if isinstance(overrides, Mapping):
        return from_dotted({k: str(v) if isinstance(v, Path) else v for k, v in overrides.items()})
    return parse_overrides(overrides)


def _config_file(path: str | Path) -> Path:
    """The file, or the one in a run folder."""
    return Path(path) / "config.yaml" if Path(path).is_dir() else Path(path)


def _without_shape(base: Tree, given: Tree) -> Tree:
    """A recipe's sizes belong to its architecture: they go when the user names another one."""
    arch = given.get("model", {}).get("arch", "auto") if isinstance(given.get("model"), dict) else "auto"
    model = base.get("model")
    if arch == "auto" or not isinstance(model, dict) or model.get("arch") == arch:
        return base
    return {**base, "model": {key: value for key, value in model.items() if key not in _SHAPE}}


_SHAPE = ("depth", "embed_dim", "num_heads", "num_register_tokens", "ffn_layer")


def _start(folder: RunFolder, given: Tree, overwrite: bool) -> RunResult:
    given = drop_auto(given)
    early = build(TrainConfig, given)  # complain about typos before looking at the data
    vit_config(early.model, early.crops.global_size)
    if "device" in (given.get("compute") or {}):
        pick_device(early.compute.device)
    if not given.get("data", {}).get("source"):
        raise ConfigError("no data given: --data takes a folder, glob, list, tar, zip or pack")
    folder.refuse(overwrite=overwrite)  # before a large collection is looked at
    dataset, facts = open_data(given)
    settings, choices = automatic(given, facts)
    settings = _with_possible_evaluation(settings, dataset)
    config = build(TrainConfig, settings)
    check(config, dataset)
    if config.model.init:  # before anything is created: a mistake here should leave no folder
        initialise_from(build_backbone(vit_config(config.model, config.crops.global_size)), config.model.init)
    folder.create(overwrite=overwrite)
    _say(folder, [f"auto  {choice}" for choice in choices] + summary(config, len(dataset), folder.path))
    return run(config, dataset, folder)


def _refuse_beside_resume(resume: str | Path, others: list[str], out: str | Path | None) -> None:
    """A resumed run has its folder, settings and weights already."""
    if out is not None and Path(out) != Path(resume):
        raise ConfigError(
            f"--resume {resume} goes on in that folder; leave out --out, or start a new run from its "
            f"weights with --init {resume} --out {out}"
        )
    if others:
        raise ConfigError(
            f"--resume {resume} goes on with its own settings and weights; leave out {' and '.join(others)}, "
            "or start a new run with --out"
        )


def _resume(folder: RunFolder, given: Tree) -> RunResult:
    settings = merge(folder.settings(), drop_auto(given))
    config = build(TrainConfig, settings)
    dataset, _ = open_data(settings)
    check(config, dataset)
    logger.info("resuming %s: %s", folder.path, folder.progress())
    if folder.step() < config.schedule.steps:
        _say(folder, summary(config, len(dataset), folder.path))
    return run(config, dataset, folder)


def _say(folder: RunFolder, lines: Iterable[str]) -> None:
    """Show the lines, and keep them in the run's log."""
    handler = attach_file(folder.log)
    try:
        for line in lines:
            logger.info("%s", line)
    finally:
        detach(handler)


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


def _with_possible_evaluation(settings: Tree, dataset: ImageDataset) -> Tree:
    """The settings, without evaluation while training where the images have no labels for it."""
    online = settings.get("online_eval", {})
    if not online.get("every"):
        return settings
    if online.get("data"):
        labelled_splits(online["data"])  # a mistake in it should show before anything is created
        return settings
    try:
        split_labelled(dataset)
    except DataError as error:
        logger.info("no k-NN while training: %s", error)
        return merge(settings, {"online_eval": {"every": 0}})
    return settings


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
    """KoLeo pushes each image of a step away from its nearest neighbour there, so it needs another one."""
    batch, off = config.schedule.batch_size, "or switch KoLeo off with objective.koleo_weight=0"
    if batch < 2:
        raise ConfigError(
            f"schedule.batch_size={batch} is one image at a time, but KoLeo compares images with each other; "
            f"use schedule.batch_size=2, {off}"
        )
    if images < 2:
        raise ConfigError(f"there is only one image, but KoLeo compares images; use more images, {off}")
    if batch > images:
        raise ConfigError(
            f"schedule.batch_size={batch} is more than the {images} images there are, so a step sees one "
            f"twice, and KoLeo pushes its copies apart; use schedule.batch_size={images}, {off}"
        )
