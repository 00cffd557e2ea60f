"""What stops a run that cannot go well, with the cause."""

import math
from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor

from nexus.data.batch import Fault
from nexus.errors import DataError, RunError
from nexus.log import logger
from nexus.training.config import TrainConfig
from nexus.training.run import FaultList

_MIN_TRIED_BEFORE_REFUSING = 20


class Guards:
    """Watches every step for losses that are not finite and for too many unusable images.

    The values of a step on a GPU are looked at one step later, when they are there, so that the GPU always
    has the next step to compute. The step itself has skipped what was not finite (`train_step`).
    """

    def __init__(self, config: TrainConfig, faults: FaultList, device: torch.device) -> None:
        self.config = config
        self.faults = faults
        self._lag = 0 if device.type == "cpu" else 1
        self._on_their_way: deque[tuple[int, _Copy]] = deque()
        self.bad_steps = 0
        self.tried = 0
        self.failed = 0

    def check(self, step: int, metrics: dict[str, torch.Tensor], faults: Sequence[Fault]) -> None:
        """Look at one finished step, and at the images of it that no process could use."""
        self.faults.add(faults)
        self.failed += len(faults)
        self.tried += self.config.schedule.batch_size + len(faults)
        limit = self.config.data.max_unreadable
        if self.tried >= _MIN_TRIED_BEFORE_REFUSING and self.failed > limit * self.tried:
            raise DataError(
                f"{self.failed} of the {self.tried} images tried cannot be used, more than "
                f"data.max_unreadable={limit}; names and reasons are in {self.faults.path}. "
                "Mend or remove them, or raise data.max_unreadable."
            )
        self._on_their_way.append((step, _Copy(metrics)))
        self._look(self._lag)

    def finish(self) -> None:
        """Look at the steps that were not looked at yet."""
        self._look(0)

    def _look(self, lag: int) -> None:
        while len(self._on_their_way) > lag:
            step, values = self._on_their_way.popleft()
            self._check_finite(step, values.read())

    def _check_finite(self, step: int, metrics: dict[str, float]) -> None:
        if metrics["finite"] > 0:
            self.bad_steps = 0
            return
        if math.isfinite(metrics["loss"]) and metrics.get("loss_scale", 0.0) > 1:
            logger.info("step %d skipped: fp16 overflow, loss scale now %g", step, metrics["loss_scale"])
            return
        self.bad_steps += 1
        process = metrics.pop("not_finite_in", math.nan)
        names = [key for key, value in metrics.items() if not math.isfinite(value)]
        if not math.isnan(process):
            names[-1] += f" in process {process:.0f}"
        logger.warning("step %d skipped: %s not finite", step, ", ".join(names))
        if self.bad_steps >= self.config.log.max_bad_steps:
            raise RunError(
                f"{self.bad_steps} steps in a row were not finite ({', '.join(names)}), the last one "
                f"step {step}. Lower optim.lr or use compute.precision=fp32, then go on from the last "
                "checkpoint with `nexus train --resume`."
            )


class _Copy:
    """The metrics of a step on their way from the device."""

    def __init__(self, metrics: dict[str, Tensor]) -> None:
        self._names = list(metrics)
        table = torch.stack([value.float() for value in metrics.values()])
        self._table = table.to("cpu", non_blocking=True)
        self._arrived: torch.Event | None = None
        if table.device.type != "cpu":
            self._arrived = torch.Event(table.device)
            self._arrived.record()

    def read(self) -> dict[str, float]:
        """The values, once they are here."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return dict(zip(self._names, self._table.tolist(), strict=True))
