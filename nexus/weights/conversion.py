"""`nexus convert`: a backbone in somebody else's files, proven before they get their name.

::

    model = load(input)
    write  →  a hidden folder beside `out`
    read back by nexus: every tensor bit-equal
    reopen in the target's library: the same features on pictures, at the native and at other sizes
    rename →  `out`

If a step fails, `out` is as it was before.
"""

import datetime
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nexus import __version__
from nexus.errors import ConfigError, NexusError, RunError, WeightsError, choose
from nexus.models.vision import VisionTransformer
from nexus.weights.comparison import (
    BOUND,
    Move,
    SizeCheck,
    batch,
    check_size,
    measure_move,
    pictures,
    sizes_of,
)
from nexus.weights.layouts import Resizing
from nexus.weights.loading import LoadReport, assemble, load_with_report
from nexus.weights.source import Encoder
from nexus.weights.targets import TARGETS, Target
from nexus.weights.writing import describe


@dataclass(frozen=True)
class Conversion:
    """What was written and how it was proven; `str` is for people, a line for each fact."""

    report: LoadReport
    """What was read."""
    out: Path
    files: tuple[Path, ...]
    command: str
    """The Python line that opens it."""
    library: str
    """Package that the target is made for."""
    version: str | None
    """Name and version of the installed library that reopened it; `None` if it is not installed."""
    checks: tuple[SizeCheck, ...]
    """Ours against the library, both resizing positions as the library does; none if it is not installed."""
    ours: Resizing
    theirs: Resizing
    moves: tuple[Move, ...]
    """What the library's way of resizing changes, where it is not ours."""

    def __str__(self) -> str:
        lines = [str(self.report), *(f"wrote {path}" for path in self.files)]
        lines.append("read back by nexus: every tensor bit-equal")
        if self.version is None:
            lines.append(f"not verified in {self.library}: not installed")
        else:
            lines.append(f"reopened in {self.version}; largest difference of a feature (bound {BOUND:.0e}):")
            lines += [f"  {check}" for check in self.checks]
        if self.moves:
            lines.append(
                f"{self.library} resizes positions otherwise ({self.theirs}) than this model was trained "
                f"({self.ours}). Its features lie away from ours, in shares of their length, by"
            )
            lines += [f"  {move}" for move in self.moves]
            lines.append("to be exact at a size, give it as --size")
        return "\n".join((*lines, f"open it with: {self.command}"))


def convert(
    input: str | Path,
    to: str,
    out: str | Path,
    *,
    images: str | Path | None = None,
    size: int | None = None,
    encoder: Encoder = "teacher",
    overwrite: bool = False,
) -> Conversion:
    """Write the backbone that `input` names for another library, and prove that it computes the same there.

    | `to`    | `out`                             | opens in                                        |
    |---------|-----------------------------------|-------------------------------------------------|
    | `hub`   | a `.pth`, with a `.json` beside   | `facebookresearch/dinov2`                       |
    | `hf`    | a folder                          | `transformers.AutoModel`, `AutoImageProcessor`  |
    | `timm`  | a `.safetensors`, or as for `hub` | `timm.create_model(..., checkpoint_path=...)`   |
    | `nexus` | a folder                          | `nexus.load`                                    |

    `input` and `encoder` are those of `nexus.load`. `size` resizes the position table first, to a side in
    pixels. `images` are pictures to compare on (anything that `--data` takes); without it, photographs that
    come with nexus. Raises `WeightsError` if the target cannot hold the backbone or computes something
    else, `RunError` if `out` is in the way. Nothing is left behind then.
    """
    target, out = choose(to, TARGETS, "target"), Path(out).expanduser()
    _refuse_ending(target, to, out)
    folder = out.parent if target.endings else out
    _refuse_taken([out] if target.endings else [folder / "config.json"], overwrite)
    model, report = load_with_report(input, encoder=encoder, img_size=size)
    if report.random:
        raise WeightsError(f"{input} names an architecture; there are no weights to convert: pass a file")
    if reason := target.refusal(model.config):
        raise WeightsError(f"{report.source} cannot be converted to {to}: {reason}")
    shown = pictures(images)
    with _stage(out) as stage:
        staged = stage / out.name if target.endings else stage
        target.write(model, staged, _description(model, report))
        _prove_tensors(model, staged)
        checks, moves = _prove_features(model, report, target, staged, shown)
        files = _publish(stage, folder, overwrite)
    return Conversion(
        report=report,
        out=out,
        files=files,
        command=target.command(out, model.config, report.normalization),
        library=target.library,
        version=target.version(),
        checks=checks,
        ours=Resizing.of(model.config),
        theirs=target.resizing(model.config),
        moves=moves,
    )


def _refuse_ending(target: Target, to: str, out: Path) -> None:
    if target.endings and out.suffix not in target.endings:
        raise ConfigError(f"--out {out} must end with {' or '.join(target.endings)} for --to {to}")
    if not target.endings and (out.is_file() or out.suffix in (".pth", ".pt", ".bin", ".safetensors")):
        raise ConfigError(
            f"--out {out} is a file's name, and --to {to} writes a folder; leave the ending out"
        )


def _refuse_taken(paths: Sequence[Path], overwrite: bool) -> None:
    taken = [path for path in paths if path.exists()]
    if taken and not overwrite:
        raise RunError(f"{taken[0]} exists already; choose another --out, or pass --overwrite to replace it")


def _description(model: VisionTransformer, report: LoadReport) -> dict[str, Any]:
    """What goes with the tensors: of the training what the input says, and that it was converted."""
    known = report.described
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    converted = {
        "from": Path(report.source).name,
        "layout": report.layout,
        "notes": [*report.filled, *report.resized],
        "nexus": __version__,
        "date": now,
    }
    provenance = {**known.get("provenance", {}), "converted": converted}
    if "licence" in known:
        provenance["licence"] = known["licence"]
    return describe(model, provenance, *report.normalization, report.look)


def _prove_tensors(model: VisionTransformer, path: Path) -> None:
    """What was written, read as a user would."""
    again, _ = load_with_report(path)
    wanted, found = model.state_dict(), again.state_dict()
    wrong = [key for key in wanted if not torch.equal(wanted[key], found[key])]
    if wrong or again.config.model_dump(exclude={"drop_path_rate"}) != _settings(model):
        raise WeightsError(
            f"what was written does not read back the same ({', '.join(wrong[:4]) or 'its settings'}); "
            "nothing was kept. Numbers that are not finite are one cause; otherwise please report it"
        )


def _settings(model: VisionTransformer) -> dict[str, Any]:
    return model.config.model_dump(exclude={"drop_path_rate"})


def _prove_features(
    model: VisionTransformer, report: LoadReport, target: Target, path: Path, shown: Sequence[Any]
) -> tuple[tuple[SizeCheck, ...], tuple[Move, ...]]:
    """Ours against the library's features, and what another way of resizing positions changes."""
    theirs = target.resizing(model.config)
    mode = {"interpolate_offset": theirs.offset, "interpolate_antialias": theirs.antialias}
    alike = assemble(model.config.model_copy(update=mode), model.state_dict())
    reopened = _reopen(target, path, model) if target.version() else None
    checks, moves = [], []
    for height, width in sizes_of(model.config):
        pixels = batch(shown, height, width, model=model, normalization=report.normalization)
        if reopened is not None:
            checks.append(check_size(alike, reopened, pixels))
        if theirs != Resizing.of(model.config):
            moves.append(measure_move(model, alike, pixels))
    failed = [str(check) for check in checks if not check.passed]
    if failed:
        raise WeightsError(
            f"{target.version()} computes other features from what was written: {'; '.join(failed)}, more "
            f"than {BOUND:.0e} of the largest feature. Nothing was kept; please report it"
        )
    return tuple(checks), tuple(moves)


def _reopen(target: Target, path: Path, model: VisionTransformer) -> Any:
    try:
        return target.reopen(path, model)
    except NexusError:
        raise
    except Exception as error:  # whatever a library says about a file that it does not take
        text = " ".join(str(error).split())[:600] or type(error).__name__
        raise WeightsError(
            f"{target.version()} does not open what was written: {text}. Nothing was kept; please report it"
        ) from error


@contextmanager
def _stage(out: Path) -> Iterator[Path]:
    """A hidden folder beside `out` that is gone afterwards."""
    stage = out.with_name(f".{out.name}.writing")
    try:
        shutil.rmtree(stage, ignore_errors=True)
        stage.mkdir(parents=True)
        yield stage
    except OSError as error:
        raise RunError(
            f"{out} could not be written: {error.strerror or error}. Free space or mend the permissions"
        ) from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _publish(stage: Path, folder: Path, overwrite: bool) -> tuple[Path, ...]:
    """Give the files their names."""
    names = sorted(path.name for path in stage.iterdir())
    _refuse_taken([folder / name for name in names], overwrite)
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (stage / name).replace(folder / name)
    return tuple(folder / name for name in names)
