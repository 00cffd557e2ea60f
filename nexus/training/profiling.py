"""Where the time of a step goes: a trace of a few steps, and a table."""

from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from nexus.log import logger

BEFORE, STEPS = 3, 3
"""Steps that are let pass, the last of them to start the profiler, and steps that are recorded."""


class StepProfiler:
    """Records a few steps after the first ones and writes `trace.json` and `table.txt` into `folder`.

    `trace.json` opens in chrome://tracing or Perfetto. The table holds the operations that took the most time
    by themselves. Recording slows the recorded steps down a little. Without `enabled` it does nothing.
    """

    def __init__(self, folder: Path, device: torch.device, *, enabled: bool) -> None:
        self.folder, self.device = folder, device
        self._profile: profile | None = None
        if enabled:
            activities = [ProfilerActivity.CPU]
            if device.type == "cuda":
                activities.append(ProfilerActivity.CUDA)
            plan = schedule(wait=BEFORE - 1, warmup=1, active=STEPS, repeat=1)
            self._profile = profile(activities=activities, schedule=plan, on_trace_ready=self._write)
            self._profile.start()

    def step(self) -> None:
        """One more step is done."""
        if self._profile:
            self._profile.step()

    def close(self) -> None:
        """The run ends; fewer steps than planned give what there is."""
        if self._profile:
            self._profile.stop()
            self._profile = None

    def _write(self, recorded: profile) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        by = "self_cuda_time_total" if self.device.type == "cuda" else "self_cpu_time_total"
        table = recorded.key_averages().table(sort_by=by, row_limit=40)
        (self.folder / "table.txt").write_text(f"{STEPS} steps\n{table}\n", encoding="utf-8")
        recorded.export_chrome_trace(str(self.folder / "trace.json"))
        logger.info("profile of %d steps: %s", STEPS, self.folder)
