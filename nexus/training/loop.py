"""The training loop: build, restore, then step after step; no ideas of its own."""

from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from nexus.config import dump_yaml
from nexus.data.batch import Batch
from nexus.data.datasets import ImageDataset
from nexus.data.loader import train_batches
from nexus.data.loading.ahead import OnDevice
from nexus.data.loading.making import BatchMaker
from nexus.data.masking import BlockMasker
from nexus.data.multicrop import MultiCropAugmentation
from nexus.data.order import StepSampler
from nexus.data.resident import ResidentBatches, ResidentImages
from nexus.distributed import is_main, local_world_size, on_main, rank, world_size
from nexus.errors import DataError, IllRun
from nexus.log import copied_to, logger
from nexus.training.agreement import Agreement
from nexus.training.config import Schedules, TrainConfig
from nexus.training.guards import Guards
from nexus.training.health import Health
from nexus.training.interrupt import Interrupt, graceful_stop
from nexus.training.memory import keep_freed_memory
from nexus.training.metrics import append_line, read_lines
from nexus.training.online_eval import OnlineEvaluation
from nexus.training.processes import local_device, local_threads
from nexus.training.profiling import StepProfiler
from nexus.training.progress import TrainProgress
from nexus.training.run import FaultList, RunFolder, survive_full_disk
from nexus.training.saving import Saver
from nexus.training.state import TrainState, build_state, vit_config
from nexus.training.step import StepValues, train_step
from nexus.training.throughput import Throughput


@dataclass(frozen=True)
class RunResult:
    """How a run ended."""

    folder: RunFolder
    step: int
    finished: bool
    last: dict[str, Any]
    told: bool = False
    """Whether another process tells the user of it."""


def run(config: TrainConfig, dataset: ImageDataset, folder: RunFolder) -> RunResult:
    """Train until the last step, a signal, or an error; whatever happens, the run can be resumed.

    A run that has all its steps is left as it is.
    """
    steps, done = config.schedule.steps, on_main(folder.step)
    if done >= steps:
        logger.info("%s is finished: %d steps. More: --resume it with a larger --steps.", folder.path, done)
        return RunResult(folder, done, True, _last_line(folder), told=not is_main())
    with _claimed(folder), graceful_stop() as interrupt:
        on_main(lambda: None if folder.config.exists() else folder.write_settings(dump_yaml(config)))
        with copied_to(folder.log):
            device = prepared_device(config)
            state = build_state(config, device, resuming=done > 0)
            state.restore(folder, images=len(dataset))
            on_main(lambda: folder.write_settings(dump_yaml(config)))
            on_main(lambda: folder.rewind(state.step))
            _train(config, dataset, folder, state, device, interrupt)
    return RunResult(folder, state.step, state.step >= steps, _last_line(folder), told=not is_main())


@contextmanager
def _claimed(folder: RunFolder) -> Iterator[None]:
    """Within the block no other run may use the folder; the main process holds the claim for all."""
    with ExitStack() as stack:
        on_main(lambda: stack.enter_context(folder.claimed()))
        yield


def prepared_device(config: TrainConfig) -> torch.device:
    """The device of this process, with threads and memory of the process as training likes them."""
    device = local_device(config.compute.device)
    if device.type == "cpu":
        keep_freed_memory()
    if threads := local_threads(config.compute.threads, local_world_size()):
        torch.set_num_threads(threads)
    return device


def _train(
    config: TrainConfig,
    dataset: ImageDataset,
    folder: RunFolder,
    state: TrainState,
    device: torch.device,
    interrupt: Interrupt,
) -> None:
    schedules, steps = Schedules(config), config.schedule.steps
    faults = FaultList(folder.unreadable)
    faults.add(dataset.faults)
    guards = Guards(config, faults, device)
    evaluation = OnlineEvaluation(config, dataset, folder.evals)
    health = Health(config, dataset, folder, device)
    saver = Saver(config, dataset, folder, state)
    agreement = Agreement(interrupt)
    stream = batches(config, dataset, state.step, device)
    progress, clock = TrainProgress(state.step, steps), Throughput(config, device)
    profiler = StepProfiler(folder.path / "profile", device, enabled=config.log.profile)
    with saver:
        try:
            while state.step < steps:
                clock.wait()
                micro_batches = agreement.next_step(stream, config.schedule.accumulation)
                clock.work()
                if not micro_batches:
                    break
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
                    forward=state.forward,
                )
                state.step += 1
                state.means.add(metrics)
                progress.advance(state.step)
                profiler.step()

                # -- once in a while ------------------------------------------------------------------
                record = None
                signs = health.look(state.model, state.step, values.teacher_temp)
                if signs or state.step % config.log.every == 0 or state.step in (1, steps):
                    record = _record(state, values, clock, config, folder, signs)
                    progress.report(record, unreadable=len(faults))
                if evaluation.due(state.step):
                    evaluation.run(state.model, state.step)
                if saver.due():
                    saver.begin()
                if record:
                    health.judge(record)
                guards.check(state.step, metrics, agreement.faults)
            guards.finish()
        except (DataError, IllRun) as error:  # in all processes: between two steps the state is sound
            agreement.failure = error
        finally:
            stream.close()
            progress.close()
            profiler.close()
        if state.step < steps:
            faults.add(agreement.faults)
        if agreement.failure or state.step < steps:
            _stop_early(saver, agreement)


def batches(
    config: TrainConfig,
    dataset: ImageDataset,
    start_step: int,
    device: torch.device,
    resident: ResidentImages | None = None,
) -> Generator[Batch]:
    """Normalised batches on the device, from a step to the end of the run.

    `resident` are the images of the data set, where they lie on the device already.
    """
    mean, std = (torch.tensor(values, device=device) for values in config.data.normalization)
    with closing(_crops(config, dataset, start_step, device, resident)) as crops:
        for batch in crops:
            yield batch.recoloured().normalized(mean, std)


def _crops(
    config: TrainConfig,
    dataset: ImageDataset,
    start_step: int,
    device: torch.device,
    resident: ResidentImages | None,
) -> Generator[Batch] | OnDevice:
    """Batches of bytes on the device, from the engine that the settings name."""
    side = config.crops.global_size // vit_config(config.model, config.crops.global_size).patch_size
    masker, order = BlockMasker(config.masks, side, side), dataset.order(config.seed)
    sampler = StepSampler(
        start_step=start_step,
        steps=config.schedule.steps,
        micro_batch=config.schedule.batch_size // config.schedule.accumulation // world_size(),
        accumulation=config.schedule.accumulation,
        rank=rank(),
        world_size=world_size(),
    )
    if config.data.engine == "resident":
        images = resident or ResidentImages.read(dataset, device)
        return ResidentBatches(images, config.crops, order, masker, config.schedule.batch_size)(sampler)
    on_device = config.data.engine == "device"
    augmentation = MultiCropAugmentation(
        config=config.crops, recolour=not on_device, native=config.data.native
    )
    colours_of = config.crops if on_device else None
    maker = BatchMaker(dataset, augmentation, order, masker, colours_of, config.schedule.batch_size)
    seconds = config.data.limits.max_seconds
    found = train_batches(maker, sampler, workers=config.data.workers, max_seconds=seconds)
    return OnDevice(found, device)


def _stop_early(saver: Saver, agreement: Agreement) -> None:
    """Save, say how to go on, and raise what ended the run, unless that was a signal."""
    folder, step = saver.folder.path, saver.state.step
    saved = saver.save()
    why = agreement.signal.name if agreement.signal else "stopped"
    where = f"saved at step {step}" if saved else f"step {step} could not be saved"
    logger.warning("%s: %s; go on with `nexus train --resume %s`", why, where, folder)
    if agreement.failure and not agreement.signal:
        raise agreement.failure


def _record(
    state: TrainState,
    values: StepValues,
    clock: Throughput,
    config: TrainConfig,
    folder: RunFolder,
    signs: dict[str, float],
) -> dict[str, Any]:
    """The means since the last record, this step's values and the rate, added to metrics.jsonl."""
    means = state.means.read()
    means.pop("ema_momentum", None)  # counts epochs, for the seed's own loop
    record: dict[str, Any] = {
        "step": state.step,
        **means,
        "lr": values.lr,
        "last_layer_lr": values.last_layer_lr,
        "weight_decay": values.weight_decay,
        "momentum": values.momentum,
        "teacher_temp": values.teacher_temp,
        "seen": state.step * config.schedule.batch_size,
        **clock.read(),
        **signs,
    }
    if is_main():
        with survive_full_disk(f"{folder.metrics}"):
            append_line(folder.metrics, record)
    return record


def _last_line(folder: RunFolder) -> dict[str, Any]:
    return (read_lines(folder.metrics) or [{}])[-1]
