"""`nexus doctor RUN`: read the log, look every illness up, say which checkpoint is best, keep it all.

::

    RUN/doctor.json      verdict, findings, vital signs, the best checkpoint
    RUN/doctor.png       the curves with the limits of the book
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nexus.errors import RunError
from nexus.health.book import BOOK
from nexus.health.course import Course
from nexus.health.diagnosis import Diagnosis, diagnose
from nexus.health.logs import read_log
from nexus.health.selection import Choice, best_step
from nexus.health.vitals import Vital, vitals
from nexus.records import write_record


@dataclass(frozen=True)
class Examination:
    """What the doctor found. `ill` decides the exit code of `nexus doctor`: 0 healthy, 1 ill."""

    course: Course
    log: Path
    notes: tuple[str, ...]
    diagnosis: Diagnosis
    vitals: tuple[Vital, ...]
    best: Choice | None
    files: tuple[Path, ...] = ()
    saved_steps: tuple[int, ...] = field(default=())

    @property
    def ill(self) -> bool:
        """Whether any illness was found."""
        return self.diagnosis.ill

    def facts(self) -> dict[str, Any]:
        """The content of doctor.json."""
        best = self.best
        return {
            "log": str(self.log),
            "tool": self.course.tool,
            "step": self.course.step,
            "steps": self.course.total,
            "ill": self.ill,
            "name": self.diagnosis.name,
            "verdict": self.diagnosis.sentence,
            "findings": [finding.facts() for finding in self.diagnosis.findings],
            "vitals": [vital.facts() for vital in self.vitals],
            "best": None if best is None else {"step": best.step, "by": best.key, "value": best.value},
            "notes": list(self.notes),
            "looked_up": [illness.name for illness in BOOK],
        }


def doctor(
    run: str | Path,
    *,
    out: str | Path | None = None,
    prototypes: int | None = None,
    look: bool = False,
    picture: bool = True,
    overwrite: bool = True,
) -> Examination:
    """Examine a run folder or a log file of nexus, dinov2 or LightlyTrain.

    `out` is the folder of doctor.json and doctor.png (left out, that of the log). `prototypes` is K, where
    another tool's log does not tell it. `look` measures the features of the saved model on the run's images
    too; for run folders of nexus. Raises `RunError` where there is nothing to read.
    """
    log = read_log(run, prototypes)
    course = log.course
    if look:
        from nexus.checkup.look import look_at

        look_at(Path(run), course)
    diagnosis = diagnose(course)
    shown_by = {key for finding in diagnosis.findings for key in finding.illness.keys}
    signs = tuple(vitals(course, shown_by))
    examination = Examination(course, log.file, tuple(log.notes), diagnosis, signs, best_step(course))
    folder = Path(out) if out else log.file.parent
    return _written(examination, folder, picture=picture, overwrite=overwrite)


def _written(examination: Examination, folder: Path, *, picture: bool, overwrite: bool) -> Examination:
    """The same, once it lies in the folder."""
    from dataclasses import replace

    report, drawing = folder / "doctor.json", folder / "doctor.png"
    if not overwrite and report.exists():
        raise RunError(f"{report} is there already; choose another --out, or say --overwrite")
    files = [report]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_record(report, examination.facts())
        if picture:
            from nexus.viz.vitals import vitals_figure

            vitals_figure(examination.course, examination.vitals).savefig(drawing, dpi=110)
            files.append(drawing)
    except OSError as error:
        raise RunError(
            f"{folder} cannot be written: {error.strerror or error}; give a folder of yours with --out"
        ) from None
    return replace(examination, files=tuple(files))
