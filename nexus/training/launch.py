"""From what a user types to a running training: settings, data, run folder, loop."""

import json
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from logging import LogRecord
from pathlib import Path
from typing import Any

from nexus.config import Tree, build, merge
from nexus.data.channels import look_at_channels
from nexus.data.crops.engines import engine
from nexus.data.datasets import ImageDataset, available_splits, open_dataset, scan
from nexus.data.images import ImageLimits
from nexus.devices import pick_device
from nexus.distributed import is_main, on_each, on_main, world_size
from nexus.errors import ConfigError, DataError
from nexus.evals.registry import task_configs, task_named, task_names
from nexus.evals.splits import labelled_splits, split_labelled
from nexus.log import copied_to, logger, remembered
from nexus.models.vision import build_backbone
from nexus.training.asked import Asked
from nexus.training.auto import GREY_MODES, automatic, several_devices
from nexus.training.choices import Choice, DataFacts, drop_auto
from nexus.training.config import ComputeConfig, OnlineEvalConfig, TrainConfig
from nexus.training.footprint import refuse_what_cannot_fit
from nexus.training.loop import RunResult, run
from nexus.training.metrics import read_lines
from nexus.training.processes import is_launched, joined, start
from nexus.training.run import RunFolder
from nexus.training.state import vit_config
from nexus.training.summary import summary
from nexus.weights import initialise_from


def train(
    data: str | Path | Sequence[str | Path] | None = None,
    out: str | Path | None = None,
    *,
    model: str | None = None,
    recipe: str | None = None,
    config: str | Path | None = None,
    resume: str | Path | None = None,
    init: str | Path | None = None,
    devices: int | str | None = None,
    overwrite: bool = False,
    overrides: Mapping[str, Any] | Sequence[str] = (),
) -> RunResult:
    """Pretrain a backbone on the images in `data` (one source or several), all left in the folder `out`.

    `recipe` and `config` are YAML settings by name or path; `overrides` are dotted settings, as a mapping
    or as `key=value` strings; what nobody sets is chosen for the data and the machine. `resume` names the
    folder of an earlier run and goes on with it. `init` names weights to start a new run from. `devices` is a
    number, or `"auto"`: with more than one, as many processes of `python -m nexus train` are started here and
    waited for; under torchrun or SLURM this process is one of those that they started.
    Raises `NexusError` for everything that a user can mend.
    """
    asked = Asked(
        data=data, model=model, recipe=recipe, config=config, init=init, devices=devices, overrides=overrides
    )
    given = asked.given()
    if resume is not None:
        others = {"--recipe": recipe, "--config": config, "--init": init, "--overwrite": overwrite}
        _refuse_beside_resume(resume, [name for name, value in others.items() if value], out)
        folder = RunFolder(resume)
        settings = merge(folder.settings(), drop_auto(given))
    elif out is None:
        raise ConfigError("no run folder given: --out says where the run leaves everything")
    else:
        folder = RunFolder(out)
        settings = asked.settings()
    if (count := _processes_to_start(settings)) > 1:
        options = {"--recipe": recipe, "--config": config, "--resume": resume, "--out": out}
        return _run_in_processes(count, folder, _arguments(options, given, overwrite))
    with joined(build(ComputeConfig, settings.get("compute") or {}).timeout):
        settings = merge(settings, {"compute": {"devices": world_size()}})
        if resume is not None:
            return _resume(folder, settings)
        return _start(folder, settings, overwrite)


def _early(settings: Tree) -> TrainConfig:
    """Complain about typos before starting anything or looking at the data."""
    if "batch_size" not in (settings.get("schedule") or {}):  # it will be chosen so that it can be split
        settings = merge(settings, {"compute": {"devices": 1}})
    return build(TrainConfig, settings)


def _processes_to_start(settings: Tree) -> int:
    """How many processes this one has to start; 1 where it is alone, or was started as one of several."""
    if is_launched():
        return 1
    _early(settings)
    count, reason = several_devices(settings)
    device = str(settings.get("compute", {}).get("device", "cuda"))
    if count > 1 and ":" in device:
        raise ConfigError(
            f"compute.device={device} is one device, but {count} were asked for; use --device "
            f"{device.partition(':')[0]}, or leave out --devices"
        )
    if count > 1:
        logger.info("auto  compute.devices=%d  (%s)", count, reason)
    return count


def _run_in_processes(count: int, folder: RunFolder, arguments: list[str]) -> RunResult:
    code = start(arguments, count)
    return RunResult(folder, folder.step(), code == 0, read_lines(folder.metrics)[-1], told=True)


def _arguments(options: Mapping[str, str | Path | None], given: Tree, overwrite: bool) -> list[str]:
    """The command line that says what `train` was told."""
    words = ["train"]
    for name, value in options.items():
        if value is not None:
            words += [name, str(value)]
    return words + ["--overwrite"] * overwrite + [f"{key}={value}" for key, value in _leaves(given)]


def _leaves(tree: Tree, above: str = "") -> Iterator[tuple[str, str]]:
    """Every setting of a tree by its dotted name, as YAML on one line."""
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", json.dumps(value, default=str)


def _start(folder: RunFolder, given: Tree, overwrite: bool) -> RunResult:
    dataset, settings = _main_first(lambda: _settle(folder, given, overwrite))
    return run(build(TrainConfig, settings), dataset, folder)


def _main_first(settle: Callable[[], tuple[ImageDataset, Tree]]) -> tuple[ImageDataset, Tree]:
    """The images and the settings that the main process settles; the others open the same images after it."""
    settled: list[ImageDataset] = []

    def on_this() -> Tree:
        dataset, settings = settle()
        settled.append(dataset)
        return settings

    settings = on_main(on_this)
    look = build(TrainConfig, settings).data.look
    on_each(lambda: None if is_main() else settled.append(open_data(settings)[0].seen_as(look)))
    return settled[0], settings


def _settle(folder: RunFolder, given: Tree, overwrite: bool) -> tuple[ImageDataset, Tree]:
    """Look at the data, choose what is left out, check everything, and make the folder."""
    if (given.get("data") or {}).get("source"):
        folder.refuse(overwrite=overwrite)  # before a large collection is looked at
    with remembered() as found:
        settled = settle(given)
    config = settled.config
    check(config, settled.dataset)
    if config.model.init:  # before anything is created: a mistake here should leave no folder
        initialise_from(build_backbone(vit_config(config.model, config.crops.global_size)), config.model.init)
    folder.create(overwrite=overwrite)
    lines = [f"auto  {choice}" for choice in settled.choices]
    _say(folder, lines + summary(config, len(settled.dataset), folder.path), found)
    return settled.dataset, settled.tree


@dataclass(frozen=True)
class Settled:
    """What a run will be: its images, its settings, and what was chosen for the user."""

    dataset: ImageDataset
    facts: DataFacts
    tree: Tree
    config: TrainConfig
    choices: list[Choice]


def settle(given: Tree) -> Settled:
    """Look at the data and choose what is left out; nothing is written, and nothing is allocated."""
    early = _early(given)
    vit_config(early.model, early.crops.global_size)
    if "device" in (given.get("compute") or {}):
        pick_device(early.compute.device)
    if not given.get("data", {}).get("source"):
        raise ConfigError("no data given: --data takes a folder, glob, list, tar, zip or pack")
    dataset, facts = open_data(given)
    if early.data.channels == "native":
        facts = replace(facts, channels=look_at_channels(dataset, early.data.value_range))
    if not (facts := replace(facts, labelled=_can_evaluate(given, dataset))).labelled:
        given = merge(given, {"online_eval": {"every": "auto"}})
    tree, choices = automatic(given, facts)
    config = build(TrainConfig, tree)
    return Settled(dataset.seen_as(config.data.look), facts, tree, config, choices)


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


def _resume(folder: RunFolder, settings: Tree) -> RunResult:
    dataset, settings = _main_first(lambda: (_look_again(folder, settings), settings))
    return run(build(TrainConfig, settings), dataset, folder)


def _look_again(folder: RunFolder, settings: Tree) -> ImageDataset:
    """The images of a run that goes on."""
    config = build(TrainConfig, settings)
    with remembered() as found:
        dataset, _ = open_data(settings)
        check(config, dataset)
        dataset = dataset.seen_as(config.data.look)
        logger.info("resuming %s: %s", folder.path, folder.progress())
    if folder.step() < config.schedule.steps:
        _say(folder, summary(config, len(dataset), folder.path), found)
    return dataset


def _say(folder: RunFolder, lines: Iterable[str], earlier: Iterable[LogRecord]) -> None:
    """Show the lines, and keep them in the run's log, after what was said earlier."""
    with copied_to(folder.log, earlier):
        for line in lines:
            logger.info("%s", line)


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
    if not report.modes:
        first = "; ".join(f"{fault.name} ({fault.reason})" for fault in report.unreadable[:3])
        raise DataError(
            f"none of the {report.examined:,} images looked at can be used: {first}. Check the data with "
            f"`nexus inspect {shlex.quote(source)}`, or widen data.limits"
        )
    short_side = int(min(report.median_width, report.median_height))
    facts = DataFacts(
        images=len(dataset),
        short_side=max(short_side, 1),
        one_size=report.min_side == report.max_side,
        grey=bool(report.modes) and set(report.modes) <= GREY_MODES,
    )
    return dataset, facts


def _can_evaluate(given: Tree, dataset: ImageDataset) -> bool:
    """Whether there are labels for an evaluation while training; where one was to be expected, why not."""
    online = given.get("online_eval") or {}
    if not _needs_labels(online):
        return True
    if online.get("data"):
        labelled_splits(online["data"])  # a mistake in it should show before anything is created
        return True
    if dataset.labels is None and not online.get("every"):
        return False
    try:
        split_labelled(dataset)
    except DataError as error:
        logger.info("no k-NN while training: %s", error)
        return False
    return True


def _needs_labels(online: Tree) -> bool:
    """Whether some task of the evaluation while training reads labelled images."""
    names = task_names(online.get("tasks") or OnlineEvalConfig().tasks)
    task_configs(names, online.get("settings") or {})  # a mistake in them should show now, too
    return any(task_named(name).on_labelled for name in names)


def check(config: TrainConfig, dataset: ImageDataset, *, memory: bool = True) -> None:
    """Refuse combinations that would only fail, or quietly go wrong, later; with `memory` what cannot fit."""
    device = pick_device(config.compute.device)
    patch = vit_config(config.model, config.crops.global_size).patch_size
    for name in ("global_size", "local_size"):
        size = getattr(config.crops, name)
        if size % patch:
            better = max(1, round(size / patch)) * patch
            raise ConfigError(
                f"crops.{name}={size} is not a multiple of the patch size {patch} of {config.model.arch}; "
                f"use crops.{name}={better}"
            )
    if memory:
        refuse_what_cannot_fit(config, device)
    if not len(dataset):
        raise ConfigError(f"{dataset.description} holds no images")
    _check_channels(config)
    engine(native=config.data.native and config.data.engine != "resident")  # compiled before processes start
    if not any((config.objective.dino_weight, config.objective.ibot_weight, config.objective.koleo_weight)):
        raise ConfigError(
            "objective.dino_weight, ibot_weight and koleo_weight are all 0, so there is nothing to learn "
            "from; set one of them, such as objective.dino_weight=1"
        )
    if (
        config.compute.devices > 1
        and config.compute.parallel == "fsdp"
        and config.compute.precision == "fp16"
    ):
        raise ConfigError(
            "compute.parallel=fsdp does not go with compute.precision=fp16, whose loss scale each "
            "process would set "
            "by itself; use compute.precision=bf16 or compute.parallel=ddp"
        )
    if config.objective.koleo_weight > 0:
        _check_koleo(config, len(dataset))


def _check_channels(config: TrainConfig) -> None:
    """The model, the images and their normalisation speak of the same number of channels."""
    data, chans = config.data, config.model.in_chans
    if data.channels == "rgb" and (chans != 3 or data.value_range is not None):
        key = "data.value_range" if chans == 3 else f"model.in_chans={chans}"
        raise ConfigError(
            f"{key} is for the stored channels, but data.channels=rgb makes 8-bit RGB of every image; use "
            "data.channels=native, or leave it out"
        )
    if data.value_range is not None and data.value_range[0] >= data.value_range[1]:
        raise ConfigError(f"data.value_range={list(data.value_range)} should be [low, high] with low < high")
    for name, values in zip(("mean", "std"), data.normalization, strict=True):
        if len(values) != chans:
            raise ConfigError(
                f"data.{name} has {len(values)} values for model.in_chans={chans}; give one for each channel "
                "of the images, or leave out both, to have them found out"
            )


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
