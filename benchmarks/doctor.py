"""Does the doctor name what is wrong, and nothing where nothing is? Well and ill runs, and a table.

Every run of `benchmarks/doctor_faults.py` is trained and diagnosed line by line, as it would be live; what
counts is the first name within its first 300 steps or its first tenth, whichever is longer::

    python -m benchmarks.doctor --photos PHOTOS.tar --small CIFAR10.tar.gz --folder runs/doctor

A run that is there already is not trained again, so that a killed command goes on; `--only` takes a part of
a name.
"""

import argparse
import collections
import datetime
import json
import os
import platform
import shlex
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.doctor_faults import BASE, DATA, FAULTS, Case, copies_of, healthy, planted
from nexus.demo import demo_data
from nexus.errors import NexusError
from nexus.health.course import Course, flat
from nexus.health.diagnosis import diagnose
from nexus.training import train
from nexus.training.metrics import read_lines
from nexus.training.run import RunFolder

RESULTS = Path(__file__).parent / "results"
WINDOW, SHARE = 300, 0.1


@dataclass(frozen=True)
class Verdict:
    """What was found in one run: the first name and its step, and all names at the end of the window."""

    case: Case
    name: str | None
    step: int
    all: tuple[str, ...]

    @property
    def right(self) -> bool:
        """Whether it is the name that was planted, or none where nothing was."""
        return self.name == self.case.expected


def made(case: Case, folder: Path, workspace: Path) -> Path:
    """The run of a case, trained if it is not there."""
    out = folder / case.name.replace(" ", "_").replace(",", "").replace("'", "")
    if (out / "done.json").exists():
        return out
    data = copies_of(case.data, workspace / "data" / "copies") if case.copied else case.data
    begin = time.process_time()
    with planted(case.plant):
        try:
            if not train(str(data), out, overwrite=True, overrides={**BASE, **case.settings}).finished:
                sys.exit(3)  # a signal: the same command goes on from this run
        except NexusError as error:  # a run that ends itself, as at ten steps in a row that are not finite
            sys.stderr.write(f"{case.name}: {error}\n")
    seconds = {"cpu_seconds": round(time.process_time() - begin, 1)}
    (out / "done.json").write_text(json.dumps(seconds), encoding="utf-8")
    return out


def judged(case: Case, out: Path) -> Verdict:
    """Diagnose after each line, as the run itself does."""
    settings = dict(flat(RunFolder(out).settings()))
    total = int(settings["schedule.steps"])
    course = Course(total=total, settings=settings)
    first: tuple[str, int] | None = None
    names: tuple[str, ...] = ()
    for record in read_lines(out / "metrics.jsonl"):
        if record["step"] > max(WINDOW, SHARE * total):
            break
        course.add(record)
        names = tuple(finding.illness.name for finding in diagnose(course).findings)
        if names and first is None:
            first = names[0], course.step
    return Verdict(case, *(first or (None, course.step)), names)


def report(verdicts: list[Verdict], seconds: float) -> str:
    """The confusion table, then every run."""
    table = collections.Counter((v.case.expected or "(healthy)", v.name or "(none)") for v in verdicts)
    right = sum(v.right for v in verdicts)
    well = [v for v in verdicts if v.case.expected is None]
    alarms = sum(v.name is not None for v in well)
    lines = [
        "# The doctor: well and ill runs",
        "",
        f"{datetime.date.today()}, {os.cpu_count()} cores of {processor()}, "
        f"torch {torch.__version__}; {seconds:.0f} s of CPU time for the runs.",
        "",
        f"`{shlex.join(['python', '-m', 'benchmarks.doctor', *sys.argv[1:]])}`",
        "",
        f"{right} of {len(verdicts)} right; {alarms} false alarms in {len(well)} healthy runs.",
        "",
        "| planted | found | runs |",
        "|---|---|---|",
    ]
    lines += [f"| {planted_} | {found} | {count} |" for (planted_, found), count in sorted(table.items())]
    lines += ["", "| run | planted | first found | at step | at the end |", "|---|---|---|---|---|"]
    lines += [
        f"| {v.case.name} | {v.case.expected or ''} | {v.name or 'nothing'}{'' if v.right else ' **wrong**'} "
        f"| {v.step if v.name else ''} | {', '.join(v.all)} |"
        for v in verdicts
    ]
    return "\n".join(lines) + "\n"


def processor() -> str:
    """The name of the processor, where the system tells."""
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text(encoding="utf-8").splitlines() if facts.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def main(arguments: list[str]) -> int:
    """Run the matrix; 0 if everything is named rightly."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--photos", default=str(demo_data() / "photos-train.tar"), help="photographs")
    parser.add_argument("--small", default=DATA, help="images of 32 pixels")
    parser.add_argument("--folder", type=Path, default=Path("runs/doctor"), help="where the runs are left")
    parser.add_argument("--only", default="", help="a part of the names of the runs to make")
    parser.add_argument("--shift", type=int, default=0, help="added to every seed: other runs, same settings")
    parser.add_argument("--optimizer", default="adamw", choices=["adamw", "muon"])
    parser.add_argument("--out", type=Path, help="file of the report")
    options = parser.parse_args(arguments)
    verdicts: list[Verdict] = []
    seconds = 0.0
    for case in (*healthy(options.photos, options.small), *FAULTS):
        if options.only not in case.name:
            continue
        seed = int(case.settings.get("seed", 0)) + options.shift
        more = {"seed": seed, "optim.optimizer": options.optimizer}
        case = replace(case, settings={**case.settings, **more})
        out = made(case, options.folder, options.folder)
        done: dict[str, Any] = json.loads((out / "done.json").read_text(encoding="utf-8"))
        seconds += done["cpu_seconds"]
        verdicts.append(judged(case, out))
        found = verdicts[-1]
        mark = "ok " if found.right else "NO "
        print(f"{mark} {case.name}: {found.name} at {found.step} {found.all}", flush=True)
    text = report(verdicts, seconds)
    print(text)
    if options.out:
        options.out.write_text(text, encoding="utf-8")
    return 0 if all(v.right for v in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
