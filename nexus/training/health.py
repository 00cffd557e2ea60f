"""Whether the run learns: vital signs for metrics.jsonl, a verdict for the log, and what follows from it.

It reads weights and images and changes neither, so a run has the same weights with it and without.
"""

from typing import Any

import torch

from nexus.data.datasets import ImageDataset
from nexus.distributed import on_main
from nexus.errors import IllRun
from nexus.health.course import Course, flat
from nexus.health.diagnosis import Diagnosis, Finding, diagnose
from nexus.log import logger
from nexus.models.ssl import DINOv2
from nexus.training.config import TrainConfig
from nexus.training.metrics import read_lines
from nexus.training.probe import Probe
from nexus.training.run import RunFolder


class Health:
    """Looks at the probe, keeps the course of the run, and acts on what it shows.

    What a stopped run had logged is read again when it goes on, so the verdicts are those of a run that was
    never stopped, and nothing is warned of twice.
    """

    def __init__(
        self, config: TrainConfig, dataset: ImageDataset, folder: RunFolder, device: torch.device
    ) -> None:
        want = config.health
        self.policy, self.every, self.steps = want.policy, want.every, config.schedule.steps
        self.probe = Probe(config, dataset, device) if self.every else None
        settings = dict(flat(config.model_dump()))
        earlier = read_lines(folder.metrics)
        self.course = Course(earlier, total=self.steps, settings=settings)
        self.named = (
            {finding.illness.name for finding in diagnose(self.course).findings} if earlier else set()
        )

    def due(self, step: int) -> bool:
        """Whether this step ends with a look at the probe."""
        return self.probe is not None and (step % self.every == 0 or step in (1, self.steps))

    def look(self, model: DINOv2, step: int, temperature: float) -> dict[str, float]:
        """The vital signs of the probe if they are due; every process must call it."""
        return self.probe.measure(model, temperature) if self.probe and self.due(step) else {}

    def judge(self, record: dict[str, Any]) -> None:
        """Take in a logged record, say what it means, and act; every process must call it.

        Raises `IllRun` in all processes where the policy is `stop` and the illness fatal.
        """
        if self.policy == "off":
            return
        self.course.add(record)
        fatal = on_main(lambda: self._say(diagnose(self.course), looked="health/images" in record))
        if fatal and self.policy == "stop":
            raise IllRun(
                f"step {self.course.step}: stopped by health.policy=stop: {fatal} Go on all the same with "
                "health.policy=warn"
            )

    def _say(self, diagnosis: Diagnosis, *, looked: bool) -> str | None:
        """Each illness once, the vital signs after each look; the sentence of a fatal one."""
        for finding in diagnosis.findings:
            if finding.illness.name not in self.named:
                self.named.add(finding.illness.name)
                logger.warning("step %d  health: %s", diagnosis.step, finding.sentence)
        if looked:
            verdict = diagnosis.name or "no illness"
            logger.info("step %d  health: %s. %s", diagnosis.step, verdict, diagnosis.vital)
        fatal: Finding | None = diagnosis.fatal
        return fatal.sentence if fatal else None
