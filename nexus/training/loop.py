"""The training loop: build, restore, then step after step; no ideas of its own."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch

from nexus import checkpoint
from nexus.config import dump_yaml
from nexus.data.batch import Batch
from nexus.data.datasets import ImageDataset
from nexus.data.loader import Collate, CropStream, train_loader
from nexus.data.masking import BlockMasker
from nexus.data.multicrop import MultiCropAugmentation
from nexus.data.order import Order, StepSampler
from nexus.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from nexus.distributed import rank, world_size
from nexus.errors import RunError
from nexus.log import attach_file, detach, logger
from nexus.training.config import Schedules, TrainConfig
from nexus.training.guards import Guards
from nexus.training.interrupt import Interrupt, graceful_stop
from nexus.training.metrics import Clock, RunningMeans, append_line, truncate_after
from nexus.training.online_eval import OnlineKNN
from nexus.training.progress import TrainProgress
from nexus.training.run import FaultList, RunFolder
from nexus.training.state import TrainState, build_state
from nexus.training.step import StepValues, train_step
from nexus.weights import save_backbone


@dataclass(frozen=True)
class RunResult:
    """How a run ended."""

    folder: RunFolder
    step: int
    finished: bool
    last: dict[str, Any]


def batches(
    config: TrainConfig, dataset: ImageDataset, state: TrainState, device: torch.device
) -> Iterator[Batch]:
    """Normalised batches on the device, from the state's step to the end of the run."""
    patch = state.model.student_backbone.patch_size
    side = config.crops.global_size // patch
    micro_batch = config.schedule.batch_size // config.schedule.accumulation // world_size()
    loader = train_loader(
        CropStream(dataset, MultiCropAugmentation(config.crops), Order(len(dataset), config.seed)),
        Collate(BlockMasker(config.masks, side, side), config.seed),
        StepSampler(
            start_step=state.step,
            steps=config.schedule.steps,
            micro_batch=micro_batch,
            accumulation=config.schedule.accumulation,
            rank=rank(),
            world_size=world_size(),
        ),
        workers=config.data.workers,
        pin_memory=device.type == "cuda",
    )
    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    for batch in loader:
        yield batch.to(device, non_blocking=True).normalized(mean, std)


def run(config: TrainConfig, dataset: ImageDataset, folder: RunFolder) -> RunResult:
    """Train until the last step, a signal, or an error; whatever happens, the run can be resumed."""
    log_file = attach_file(folder.log)
    device = torch.device(config.compute.device)
    if config.compute.threads:
        torch.set_num_threads(config.compute.threads)
    try:
        state = build_state(config, device)
        state.restore(folder)
        checkpoint.write_atomic(folder.config, dump_yaml(config))
        truncate_after(folder.metrics, state.step)
        with graceful_stop() as interrupt:
            last = _train(config, dataset, folder, state, device, interrupt)
    finally:
        detach(log_file)
    return RunResult(folder, state.step, state.step >= config.schedule.steps, last)


def _train(
    config: TrainConfig,
    dataset: ImageDataset,
    folder: RunFolder,
    state: TrainState,
    device: torch.device,
    interrupt: Interrupt,
) -> dict[str, Any]:
    schedules, steps = Schedules(config), config.schedule.steps
    stream = batches(config, dataset, state, device)
    evaluation = OnlineKNN(config, dataset, folder.evals)
    means, clock, faults = RunningMeans(), Clock(), FaultList(folder.unreadable)
    faults.add(dataset.faults)
    guards = Guards(config, faults)
    progress = TrainProgress(state.step, steps)
    last: dict[str, Any] = {}
    try:
        while state.step < steps and not interrupt:
            clock.wait()
            micro_batches = list(islice(stream, config.schedule.accumulation))
            clock.work()
            # Stochastic depth draws from here; seeding each step is what makes a resumed run exact.
            torch.manual_seed((config.seed << 32) + state.step * world_size() + rank())
            values = schedules.at(state.step)
            metrics = train_step(
                state.model,
                micro_batches,
                state.optimizer,
                state.scaler,
                values,
                precision=config.compute.precision,
                clip=config.optim.clip_grad,
            )
            state.step += 1
            means.add(metrics)
            guards.check(state.step, metrics, micro_batches)
            progress.advance(state.step)

            # -- once in a while ------------------------------------------------------------------
            if state.step % config.log.every == 0 or state.step in (1, steps):
                last = _record(state.step, means, values, clock, config)
                append_line(folder.metrics, last)
                progress.report(last)
            if evaluation.due(state.step):
                evaluation.run(state.model, state.step)
            if state.step % config.checkpoint.every == 0 or state.step == steps:
                _save(config, folder, state, dataset)
        if interrupt:
            _save(config, folder, state, dataset)
            assert interrupt.signal is not None
            logger.warning(
                "%s: saved at step %d; go on with `nexus train --resume %s`",
                interrupt.signal.name,
                state.step,
                folder.path,
            )
    finally:
        progress.close()
    return last


def _save(config: TrainConfig, folder: RunFolder, state: TrainState, dataset: ImageDataset) -> None:
    """A checkpoint, and beside it the two backbones that people use. A full disk is survived."""
    try:
        state.save(folder, config.checkpoint.keep)
        provenance = {
            "step": state.step,
            "steps": config.schedule.steps,
            "data": dataset.description,
            "images": len(dataset),
            "seed": config.seed,
        }
        for file_name, network in (
            ("model.safetensors", state.model.teacher_backbone),
            ("student.safetensors", state.model.student_backbone),
        ):
            save_backbone(
                network,
                folder.path,
                file_name=file_name,
                provenance=provenance,
                mean=IMAGENET_MEAN,
                std=IMAGENET_STD,
            )
    except (RunError, OSError) as error:
        if state.step >= config.schedule.steps:
            raise
        logger.error("%s Training goes on; the next checkpoint is tried again.", error)


def _record(
    step: int, means: RunningMeans, values: StepValues, clock: Clock, config: TrainConfig
) -> dict[str, Any]:
    record: dict[str, Any] = {"step": step, **means.read()}
    record.update(
        lr=values.lr,
        last_layer_lr=values.last_layer_lr,
        weight_decay=values.weight_decay,
        momentum=values.momentum,
        teacher_temp=values.teacher_temp,
        seen=step * config.schedule.batch_size,
        **clock.read(config.schedule.batch_size),
    )
    record.pop("ema_momentum", None)
    return record
