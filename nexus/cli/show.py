"""What the commands print: tables, summaries, progress bars. Nothing else in nexus prints."""

import json
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from nexus.data.preparation import Packed, Survey
    from nexus.data.preparation.measuring import Measured
    from nexus.embedding import Written
    from nexus.training import RunResult
    from nexus.weights import Conversion

Report = Callable[[int, int], None]


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """The reader left, as in `| head -1`; `nexus.cli.run` ends quietly."""
        raise BrokenPipeError


def terminal() -> Console:
    """The terminal, or whatever reads us."""
    # Paths and class names may hold [brackets], which are no markup.
    return _Console(soft_wrap=True, markup=False, highlight=False)


@contextmanager
def progress_bar(title: str) -> Iterator[Report | None]:
    """A bar on a terminal; nothing elsewhere. Yields `report(done, total)`."""
    if not sys.stderr.isatty():
        yield None
        return
    columns = TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None)

        def report(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield report


def train_summary(result: "RunResult") -> int:
    """Say what lies where, and how to use it. Returns the exit code: 0 finished, 3 stopped by a signal."""
    if result.told:
        return 0 if result.finished else 3
    folder = shlex.quote(str(result.folder.path))
    say = terminal().print
    if not result.finished:
        say(f"stopped at step {result.step}; `nexus train --resume {folder}` goes on")
        return 3
    say(f"finished: {result.step} steps. The backbone is {result.folder.path / 'model.safetensors'}. Next:")
    say(f"  nexus eval --data LABELLED --model {folder}")
    say(f"  nexus embed --data IMAGES --model {folder} --out features.parquet")
    say(f"in Python: nexus.load({str(result.folder.path)!r})")
    unreadable = result.folder.unreadable
    if unreadable.exists():
        say(f"some images were skipped: {unreadable}")
    return 0


def embed_summary(written: "Written") -> None:
    """Say how many features were written, and which images failed."""
    say = terminal().print
    again = f" (the first {written.resumed_at} images by an earlier run)" if written.resumed_at else ""
    say(f"{written.rows} images, {written.dim} dimensions → {written.path}{again}")
    for fault in written.faults:
        say(f"skipped {fault.name}: {fault.reason}")
    if written.unreadable:
        say(f"{written.unreadable} images could not be used: {written.unreadable_list}")


def conversion(result: "Conversion") -> None:
    """What was written, how it was checked, and the line that opens it."""
    say = terminal().print
    for line in str(result).splitlines():
        say(line)


def demo_table(result: Any) -> None:
    """The table of the demo, its verdict, and where the report is."""
    table = Table(title="frozen features, accuracy in %")
    table.add_column("features")
    table.add_column("k-NN", justify="right")
    table.add_column("linear probe", justify="right")
    for name, row in result.rows.items():
        table.add_row(name, f"{100 * row['knn']:.1f}", f"{100 * row['linear']:.1f}")
    console = terminal()
    console.print(table)
    console.print(result.verdict)
    console.print(f"report: {result.report}")


def export_table(result: Any) -> None:
    """One row an output and shape; then what was written, and what is to be known about it."""
    console = terminal()
    if result.checks:
        table = Table(title=f"{result.path.name} in {result.runtime}, against the model")
        for column in ("output", "images × height × width", "max error", "mean error", "cosine"):
            table.add_column(column, justify="left" if column == "output" else "right")
        for check in result.checks:
            shape = " × ".join(map(str, check.shape))
            errors = f"{check.max_error:.2e}", f"{check.mean_error:.2e}"
            table.add_row(check.output, shape, *errors, f"{check.cosine:.8f}")
        console.print(table)
    if not result.files:
        return
    for name in result.blind:
        console.print(f"{name} is nearly the same for all images, so its comparison proves little")
    if result.keep:
        console.print(f"{', '.join(result.keep)} stay in float32")
    if result.verified:
        console.print(f"verified: every cosine is at least {result.bound}")
    else:
        console.print(f'NOT VERIFIED: {result.runtime} is not installed; pip install "nexus[export]"')
    console.print(f"written: {', '.join(str(path) for path in reversed(result.files))}")


def inspection(facts: dict[str, Any], *, as_json: bool = False) -> None:
    """What `nexus inspect` found, one fact a line, or as one JSON object."""
    say = terminal().print
    if as_json:
        say(json.dumps(facts, indent=2))
        return
    for key, value in facts.items():
        plain = isinstance(value, list) and all(isinstance(item, str) for item in value)
        text = ", ".join(value) if plain else json.dumps(value)
        say(f"{key:<16} {value if isinstance(value, str) else text}")


_LISTED = 5


def survey_table(found: "Survey") -> None:
    """What `nexus data scan` saw: counts and shares, then the first names of each kind of trouble."""
    console = terminal()
    console.print(found.description)
    table = Table(title=f"{found.examined:,} of {found.images:,} images looked at")
    table.add_column("what")
    table.add_column("found")
    for name, (low, middle, high) in found.sides.items():
        table.add_row(f"{name}, px", f"{low} to {high}, median {middle}")
    for name, counts in (("mode", found.modes), ("channels", found.channels), ("bits", found.bits)):
        table.add_row(name, ", ".join(f"{key}: {count:,}" for key, count in counts.items()))
    table.add_row("unreadable", f"{len(found.unreadable):,}")
    table.add_row("exact duplicates", f"{found.superfluous:,} (by {found.compared})")
    table.add_row("tiny", f"{len(found.tiny):,} with a side below {_scan_limits()[0]} px")
    table.add_row("extreme aspect", f"{len(found.extreme):,} longer than {_scan_limits()[1]:g} : 1")
    console.print(table)
    _some("unreadable", [f"{fault.name}: {fault.reason}" for fault in found.unreadable])
    _some("duplicates", [" = ".join(group) for group in found.duplicates])
    _some("tiny", found.tiny)
    _some("extreme aspect", found.extreme)


def _scan_limits() -> tuple[int, float]:
    from nexus.data.preparation.survey import EXTREME, TINY

    return TINY, EXTREME


def _some(what: str, names: Sequence[str]) -> None:
    for name in names[:_LISTED]:
        terminal().print(f"{what}: {name}")
    if len(names) > _LISTED:
        terminal().print(f"{what}: and {len(names) - _LISTED:,} more (--out FILE.json lists all)")


def measured_lines(found: "Measured") -> None:
    """What `nexus data stats` measured, and what to write behind `nexus train`."""
    say, stats = terminal().print, found.stats
    say(f"{found.description}: {len(stats.mean)} channels, {stats.images:,} images, {stats.pixels:,} pixels")
    for fault in stats.faults[:_LISTED]:
        say(f"skipped {fault.name}: {fault.reason}")
    if len(stats.faults) > _LISTED:
        say(f"skipped {len(stats.faults) - _LISTED:,} more (--out FILE.json lists all)")
    say(" ".join(shlex.quote(setting.replace(", ", ",")) for setting in found.settings()))


def packed_lines(packed: "Packed") -> None:
    """What `nexus data pack` wrote."""
    say = terminal().print
    again = f" (the first {packed.resumed_at:,} images by an earlier run)" if packed.resumed_at else ""
    volume = f"{packed.shards} shard{'s' * (packed.shards > 1)}, {packed.bytes / 1e6:,.1f} MB"
    say(f"{packed.images:,} images, {volume} → {packed.path}{again}")
    if packed.unreadable:
        say(f"{packed.unreadable:,} images could not be packed: {packed.path / 'unreadable.csv'}")
    say(f"nexus train --data {shlex.quote(str(packed.path))} --out runs/a")
