"""What stops a run that cannot go well, with the cause."""

from collections.abc import Sequence

import torch

from nexus.data.batch import Fault
from nexus.errors import DataError, RunError
from nexus.log import logger
from nexus.training.config import TrainConfig
from nexus.training.run import FaultList

_MIN_TRIED_BEFORE_REFUSING = 20


class Guards:
    """Watches every step for losses that are not finite and for too many unusable images."""

    def __init__(self, config: TrainConfig, faults: FaultList) -> None:
        self.config = config
        self.faults = faults
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
        self._check_finite(step, metrics)

    def _check_finite(self, step: int, metrics: dict[str, torch.Tensor]) -> None:
        if metrics["finite"] > 0:
            self.bad_steps = 0
            return
        if metrics["loss"].isfinite() and metrics.get("loss_scale", torch.zeros(())) > 1:
            logger.info("step %d skipped: fp16 overflow, loss scale now %g", step, metrics["loss_scale"])
            return
        self.bad_steps += 1
        names = [key for key, value in metrics.items() if not torch.isfinite(value)]
        if "not_finite_in" in metrics:
            names[-1] += f" in process {int(metrics['not_finite_in'])}"
        logger.warning("step %d skipped: %s not finite", step, ", ".join(names))
        if self.bad_steps >= self.config.log.max_bad_steps:
            raise RunError(
                f"{self.bad_steps} steps in a row were not finite ({', '.join(names)}), the last one "
                f"step {step}. Lower optim.lr or use compute.precision=fp32, then go on from the last "
                "checkpoint with `nexus train --resume`."
            )
