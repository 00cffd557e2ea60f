"""Logs of training runs to `Course`s: ours, those of the official code, and those of LightlyTrain.

| tool          | file                    | one object a line                                       |
|---------------|-------------------------|---------------------------------------------------------|
| nexus         | `metrics.jsonl`         | `step`, `loss/dino_global`, ...: docs/health.md         |
| dinov2        | `training_metrics.json` | `iteration`, `dino_local_crops_loss`, `mom`, `wd`, ...  |
| lightly-train | `metrics.jsonl`         | `step`, `train_loss`, `dino_global_loss`, ...           |
| dino, ibot    | `log.txt`               | `epoch`, `train_loss`, `train_lr`: the loss is all      |

Sources of the names: facebookresearch/dinov2 `dinov2/train/train.py`, `dinov2/logging/helpers.py` and
`dinov2/train/ssl_meta_arch.py`; lightly-ai/lightly-train `src/lightly_train/_methods/dinov2/dinov2.py`;
facebookresearch/dino issue 246 for a log of the last kind. None of them writes ln K, so the number of
prototypes is taken from the user, from the `config.yaml` beside the log, or guessed from the first loss,
which is near ln K.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nexus.config import read_yaml
from nexus.errors import ConfigError, RunError
from nexus.health.course import Course, flat

FILES = ("metrics.jsonl", "training_metrics.json", "log.txt")
"""Where a log lies in the folder of a run, the first that is there."""

DINOV2 = {
    "total_loss": "loss",
    "dino_global_crops_loss": "loss/dino_global",
    "dino_local_crops_loss": "loss/dino_local",
    "ibot_loss": "loss/ibot",
    "koleo_loss": "loss/koleo",
    "lr": "lr",
    "last_layer_lr": "last_layer_lr",
    "mom": "momentum",
    "wd": "weight_decay",
}
LIGHTLY = {
    "train_loss": "loss",
    "dino_global_loss": "loss/dino_global",
    "dino_local_loss": "loss/dino_local",
    "ibot_loss": "loss/ibot",
    "koleo_loss": "loss/koleo",
}
DINO = {"train_loss": "loss", "train_lr": "lr", "train_wd": "weight_decay"}


@dataclass
class Log:
    """What was read: the course, and what the reader had to skip or to assume."""

    course: Course
    file: Path
    notes: list[str] = field(default_factory=list)


def read_log(path: str | Path, prototypes: int | None = None) -> Log:
    """The log of a run folder, or a log file. `prototypes` is K where the log does not tell.

    Half a line, as a kill leaves it, and lines that are no records are skipped and counted. A step that was
    written twice counts as written last. Raises `RunError` where there is no log or nothing in it.
    """
    file = _log_file(Path(path))
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    parsed = [_parsed(line) for line in lines if line.strip()]
    found = [record for record in parsed if record is not None]
    notes = []
    if damaged := len(parsed) - len(found):
        notes.append(f"{damaged} damaged line{'s' * (damaged > 1)} skipped")
    tool, names = _tool(found, file)
    settings = _settings(file)
    records = _in_order([_renamed(record, tool, names) for record in found])
    if tool != "nexus":
        chosen, why = _prototypes(records, settings, prototypes, tool)
        if chosen:
            notes.append(f"{chosen:,} prototypes, {why}")
        _add_references(records, settings, chosen, tool)
    elif prototypes:
        notes.append("our log says itself what uniform output would be; --prototypes is not needed")
    total = settings.get("schedule.steps") if tool == "nexus" else _official_steps(settings)
    course = Course(records, total=total if isinstance(total, int) else None, settings=settings, tool=tool)
    _add_evaluations(course, file.parent)
    return Log(course, file, notes)


def _log_file(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.exists():
        raise RunError(f"{path} does not exist; name a run folder, or a log such as RUN/metrics.jsonl")
    places = [folder / name for name in FILES for folder in (path, path / "logs")]
    for place in places:
        if place.is_file() and any(_parsed(line) for line in _head(place)):
            return place
    raise RunError(
        f"{path} holds no log that can be read: none of {', '.join(FILES)} with a JSON object on a line. A "
        "run writes it at its first logged step; for another tool's log name the file"
    )


def _head(place: Path, lines: int = 50) -> list[str]:
    with place.open(encoding="utf-8", errors="replace") as file:
        return [line for _, line in zip(range(lines), file, strict=False)]


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (json.JSONDecodeError, RecursionError):
        return None
    known = isinstance(record, dict) and any(isinstance(record.get(key), int | float) for key in _COUNTERS)
    return record if known else None


_COUNTERS = ("step", "iteration", "epoch")


def _tool(records: list[dict[str, Any]], file: Path) -> tuple[str, Mapping[str, str]]:
    """Who wrote the log, and how its names are translated."""
    keys = {key for record in records for key in record}
    if not records:
        raise RunError(f"{file} holds no record with a step; it is empty, or no log of a training")
    if "iteration" in keys and keys & DINOV2.keys():
        return "dinov2", DINOV2
    if "step" in keys and "train_loss" in keys:
        return "lightly-train", LIGHTLY
    if "step" in keys and ("loss" in keys or any(key.startswith(("loss/", "health/")) for key in keys)):
        return "nexus", {}
    if "epoch" in keys and "train_loss" in keys:
        return "dino", DINO
    raise RunError(
        f"{file} is no log that we know: it has {', '.join(sorted(keys)[:8])}. Known are those "
        "of nexus, dinov2 (training_metrics.json), LightlyTrain's dinov2 (metrics.jsonl) and DINO (log.txt)"
    )


def _renamed(record: dict[str, Any], tool: str, names: Mapping[str, str]) -> dict[str, Any]:
    if tool == "nexus":
        return record
    counter = {"dinov2": "iteration", "dino": "epoch"}.get(tool, "step")
    renamed = {names[key]: value for key, value in record.items() if key in names}
    return {"step": record[counter], **renamed} if renamed and counter in record else {}


def _in_order(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """By step, each once, as written last; what several lines say of one step goes together."""
    by_step: dict[int, dict[str, Any]] = {}
    for record in records:
        step = record.get("step")
        if isinstance(step, int | float) and math.isfinite(step):
            by_step[int(step)] = {**by_step.get(int(step), {}), **record, "step": int(step)}
    return [by_step[step] for step in sorted(by_step)]


def _settings(file: Path) -> dict[str, Any]:
    """The leaves of the `config.yaml` beside the log, if there is one that can be read."""
    for place in (file.parent / "config.yaml", file.parent.parent / "config.yaml"):
        if place.is_file():
            try:
                return dict(flat(read_yaml(place)))
            except ConfigError:
                return {}
    return {}


def _official_steps(settings: Mapping[str, Any]) -> int | None:
    epochs, length = settings.get("optim.epochs"), settings.get("train.OFFICIAL_EPOCH_LENGTH")
    return epochs * length if isinstance(epochs, int) and isinstance(length, int) else None


def _prototypes(
    records: list[dict[str, Any]], settings: Mapping[str, Any], given: int | None, tool: str
) -> tuple[int | None, str]:
    """K, and where it is from."""
    if given:
        return given, "as given"
    if isinstance(settings.get("dino.head_n_prototypes"), int):
        return int(settings["dino.head_n_prototypes"]), "from config.yaml"
    parts = ("loss",) if tool == "dino" else ("loss/dino_global", "loss/dino_local")
    for record in records:
        if all(isinstance(record.get(part), int | float) and math.isfinite(record[part]) for part in parts):
            first = sum(record[part] for part in parts)
            if 4.0 < first < 14.0:
                return 2 ** round(
                    first / math.log(2)
                ), f"guessed from the first loss, {first:.2f}; give --prototypes"
            break
    return None, ""


def _add_references(
    records: list[dict[str, Any]], settings: Mapping[str, Any], prototypes: int | None, tool: str
) -> None:
    """What each term would be at uniform output, by the conventions of the tool.

    Both divide the DINO loss among the pairs of crops as we do. The official code logs half of the iBOT term.
    """
    if prototypes is None:
        return
    uniform = math.log(prototypes)
    for record in records:
        if tool == "dino":
            record["loss/dino_global"], record["uniform/dino_global"] = record.get("loss", math.nan), uniform
            continue
        small, large = record.get("loss/dino_local"), record.get("loss/dino_global")
        if isinstance(small, int | float) and isinstance(large, int | float):
            record["uniform/dino_global"] = uniform * _share(settings, large, small)
            record["uniform/dino_local"] = uniform - record["uniform/dino_global"]
        if "loss/ibot" in record:
            masked = settings.get("ibot.mask_sample_probability", 0.5)
            record["uniform/ibot"] = uniform * float(masked) / (2 if tool == "dinov2" else 1)


def _share(settings: Mapping[str, Any], large: float, small: float) -> float:
    """The share of the two pairs of global crops: 1 / (1 + local crops)."""
    local = settings.get("crops.local_crops_number")
    if not isinstance(local, int):
        local = round(small / large) if large > 0 and math.isfinite(small / large) else 8
    return 1.0 / (1 + local)


def _add_evaluations(course: Course, folder: Path) -> None:
    """Online k-NN results beside the log, as `knn`."""
    for file in sorted(folder.glob("evals/step_*.json")):
        try:
            result = json.loads(file.read_text(encoding="utf-8"))
            course.note(int(result["step"]), "knn", float(result["knn"]["top1"]))
        except (OSError, ValueError, KeyError, TypeError):
            continue
