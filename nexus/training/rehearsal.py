"""A few real steps of a run, on its own data, to know what a step takes before anything is promised.

Nothing is written. The run's own batch is tried if that takes seconds; else smaller ones, and a line
through them says what the whole would take: part of a step is the same for any batch (the optimizer, the
teacher's average), the rest grows with the images.
"""

import statistics
import time
from contextlib import closing
from dataclasses import dataclass

import torch

from nexus.config import build, from_dotted, merge
from nexus.data.datasets import ImageDataset
from nexus.data.resident import ResidentImages
from nexus.log import logger
from nexus.training.config import Schedules, TrainConfig
from nexus.training.footprint import available_memory, likely_memory
from nexus.training.loop import batches, prepared_device
from nexus.training.state import build_state
from nexus.training.step import train_step
from nexus.training.throughput import peak_memory

_FIRST = 2
"""Images of the first try."""
_MOST_STEPS = 20
_MOST_TRIES = 3


@dataclass(frozen=True)
class Rehearsal:
    """What a step takes. Seconds are those of the wall clock, memory is in bytes of one process."""

    step: float
    """Seconds a step, all its micro-batches together."""
    waiting: float
    """Share (0..1) of the time that was spent waiting for images."""
    start: float
    """Seconds from nothing to the end of the first step that was tried: networks, data, first batch."""
    memory: int
    """Peak of a process at the whole micro-batch."""
    batch: int
    """Images of the largest step that was tried."""
    steps: int
    """Steps of that size that were measured, after the first."""
    cores: float
    """Cores that the process had while it worked, on average; on a busy machine fewer than it asked for."""
    scaled: bool
    """Whether that is not the run's micro-batch, so that `step` and `memory` are extrapolated."""


@dataclass(frozen=True)
class _Try:
    images: int
    step: float
    waited: float
    first: float
    steps: int
    cores: float
    before: int
    peak: int


@dataclass(frozen=True)
class _Source:
    """What all tries read from. What a run reads only once is read only once here, too."""

    dataset: ImageDataset
    device: torch.device
    resident: ResidentImages | None
    seconds: float
    """What reading the resident images took."""

    @classmethod
    def of(cls, config: TrainConfig, dataset: ImageDataset, device: torch.device) -> "_Source":
        if config.data.engine != "resident":
            return cls(dataset, device, None, 0.0)
        began = time.perf_counter()
        images = ResidentImages.read(dataset, device)
        seconds = time.perf_counter() - began
        logger.info("plan  %s images read into memory in %.1f s", f"{len(dataset):,}", seconds)
        return cls(dataset, device, images, seconds)


def of_one_process(config: TrainConfig) -> TrainConfig:
    """The part of a run that one of its processes makes, as a run of its own."""
    batch, devices = config.schedule.batch_size // config.compute.devices, config.compute.devices
    if devices == 1:
        return config
    alone = {"schedule.batch_size": batch, "compute.devices": 1, "compute.parallel": "ddp"}
    return build(TrainConfig, merge(config.model_dump(), from_dotted(alone)))


def rehearse(config: TrainConfig, dataset: ImageDataset, seconds: float = 8.0) -> Rehearsal | None:
    """Make steps for about `seconds`. `None` where not even a small batch fits."""
    device, config = prepared_device(config), of_one_process(config)
    part = config.schedule.batch_size // config.schedule.accumulation
    most = min(part, _fitting(config, device))
    if not most:
        return None
    tries: list[_Try] = []
    images: int | None = min(_FIRST, most)
    try:
        source = _Source.of(config, dataset, device)
        while images:
            last = images == most or len(tries) + 1 == _MOST_TRIES
            tries.append(_try(config, source, images, seconds / (2 if last else 8)))
            logger.info("plan  a step of %d images at once: %.2f s", images, tries[-1].step)
            images = None if last else _next(tries, most, seconds)
    except torch.OutOfMemoryError:
        logger.info("plan  steps of %d images at once do not fit", images)
    return _joined(config, tries, part) if tries else None


def _fitting(config: TrainConfig, device: torch.device) -> int:
    """Images that should fit at once, with a fifth of the memory to spare; 0 where nothing does."""
    have = available_memory(device)
    parts = likely_memory(config)
    images = config.schedule.batch_size / config.schedule.accumulation
    if have is None:
        return int(images)
    fit = int((0.8 * have - parts["weights"]) * images / max(parts["crops"] + parts["activations"], 1))
    least = 2 if config.objective.koleo_weight > 0 else 1
    return fit if fit >= least else 0


def _next(tries: list[_Try], most: int, seconds: float) -> int | None:
    """How many images to try after these: all if three such steps end in time, else as many as do."""
    last, points = tries[-1].images, [(t.images, t.step) for t in tries]
    affordable = last
    while affordable < most and line(points, min(2 * affordable, most)) <= seconds / 3:
        affordable = min(2 * affordable, most)
    return affordable if affordable > last else None


def _try(config: TrainConfig, source: _Source, images: int, seconds: float) -> _Try:
    """Steps of `images` at once for about `seconds`, at least one after the first."""
    device = source.device
    changes = {"schedule.batch_size": images, "schedule.accumulation": 1}
    small = build(TrainConfig, merge(config.model_dump(), from_dotted({**changes, "compute.compile": False})))
    before, began, worked = peak_memory(device), time.perf_counter(), time.process_time()
    state, schedules = build_state(small, device), Schedules(config)
    took: list[float] = []
    waited: list[float] = []
    with closing(batches(small, source.dataset, 0, device, source.resident)) as stream:
        while len(took) < _fewest(took, seconds) or (sum(took[1:]) < seconds and len(took) <= _MOST_STEPS):
            start = time.perf_counter()
            batch = next(stream)
            waited.append(time.perf_counter() - start)
            train_step(
                state.model,
                [batch],
                state.optimizer,
                state.scaler,
                schedules.at(len(took)),
                precision=config.compute.precision,
                clip=config.optim.clip_grad,
            )
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            took.append(time.perf_counter() - start)
            if len(took) == 1:
                first = time.perf_counter() - began
    return _Try(
        images=images,
        step=statistics.median(took[1:]),
        waited=sum(waited[1:]) / sum(took[1:]),
        first=source.seconds + first,
        steps=len(took) - 1,
        cores=(time.process_time() - worked) / (time.perf_counter() - began),
        before=before,
        peak=peak_memory(device),
    )


def _fewest(took: list[float], seconds: float) -> int:
    """Steps that must be made: the first, which is slow, and two more, or one where it takes very long."""
    return 2 if sum(took) > 2 * seconds else 3


def _joined(config: TrainConfig, tries: list[_Try], part: int) -> Rehearsal:
    """What the tries say of a whole step."""
    last = tries[-1]
    scaled = last.images != part
    step = line([(t.images, t.step) for t in tries], part) if scaled else last.step
    fixed = min(tries[0].before + likely_memory(config)["weights"], last.peak)
    return Rehearsal(
        step=step * config.schedule.accumulation,
        waiting=last.waited,
        start=last.first,
        memory=round(fixed + (last.peak - fixed) * part / last.images) if scaled else last.peak,
        batch=last.images,
        steps=last.steps,
        cores=last.cores,
        scaled=scaled,
    )


def line(points: list[tuple[int, float]], at: int) -> float:
    """The value at `at` of the line through the last two points, or through the origin and the only one.

    Noise may tilt it: it never rises by less than a tenth of what would be in proportion, and never above it.
    """
    images, seconds = points[-1]
    proportional = seconds * at / images
    if len(points) < 2:
        return proportional
    less, lower = points[-2]
    slope = max((seconds - lower) / (images - less), 0.1 * seconds / images)
    return min(seconds + slope * (at - images), proportional)
