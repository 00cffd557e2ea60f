"""The vital signs that need weights and images, of a run folder of nexus, on request."""

from pathlib import Path

from nexus.config import build
from nexus.devices import pick_device
from nexus.errors import RunError
from nexus.health.course import Course
from nexus.training import TrainConfig
from nexus.training.config import Schedules
from nexus.training.launch import open_data
from nexus.training.probe import Probe
from nexus.training.run import RunFolder
from nexus.training.state import build_state


def look_at(run: Path, course: Course, device: str = "auto") -> None:
    """Measure the newest checkpoint on the probe, and add what is seen to the course.

    The probe is the one that the run itself would look at. Raises `RunError` where there is no checkpoint,
    and the errors of the data.
    """
    folder = RunFolder(run)
    if not run.is_dir() or folder.step() == 0:
        raise RunError(
            f"{run} has no checkpoint whose features could be looked at; --look is for run folders of nexus. "
            "Leave it out to read the log alone"
        )
    settings = folder.settings()
    config = build(TrainConfig, settings)
    place = pick_device(device)
    dataset, _ = open_data(settings)
    dataset = dataset.seen_as(config.data.look)
    state = build_state(config, place, resuming=True)
    state.restore(folder, images=len(dataset))
    temperature = Schedules(config).at(max(state.step - 1, 0)).teacher_temp
    signs = Probe(config, dataset, place).measure(state.model, temperature)
    course.add({"step": max(state.step, course.step), **signs})
