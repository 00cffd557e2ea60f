"""`nexus eval --reproduce`: what it runs, and what it prints."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from nexus.figures import number, quantity


def run(name: str, data: str, out: Path | None, **settings: Any) -> None:
    """Evaluate a released model as published, and print both figures. `settings` left out are None."""
    from nexus.cli.show import progress_bar
    from nexus.evals.reproduce import reproduce

    given = {key: value for key, value in settings.items() if value is not None}
    with progress_bar("features") as progress:
        result = reproduce(name, data, out=out, progress=progress, **given)
    reproduction(result, out)


def reproduction(result: dict[str, Any], place: Path | None = None) -> None:
    """One row a figure: published, measured with its interval; then how protocols differ, and the file."""
    console = Console(soft_wrap=True, markup=False, highlight=False)
    table = Table(title=f"{result['model']}: published and measured")
    for column in ("benchmark", "figure", "published", "measured", "95 % interval", "images"):
        table.add_column(column, justify="left" if column in ("benchmark", "figure") else "right")
    for row in result["table"]:
        low, high = (number(value, row["unit"]) for value in row["interval"])
        table.add_row(
            row["benchmark"],
            row["what"],
            quantity(row["published"], row["unit"]),
            quantity(row["measured"], row["unit"]),
            f"{low} – {high}",
            f"{row['samples']:,}",
        )
    console.print(table)
    for row in result["table"]:
        console.print(f"{row['benchmark']}, {row['what']}: {row['ours']} (published: {row['protocol']})")
    if result["limit"] is not None:
        console.print(f"--limit {result['limit']}: a part of the images, so not comparable")
    if place is not None:
        console.print(f"written to {place if place.suffix == '.json' else place / 'reproduce.json'}")
