"""Which benchmark lies in a folder, by its usual name."""

from pathlib import Path

from nexus.data.datasets.known.imagenet import is_imagenet
from nexus.data.datasets.known.inaturalist import inaturalist_year
from nexus.data.datasets.known.places import places_name
from nexus.data.datasets.known.shifted import shifted_name


def benchmark_of(path: Path) -> str | None:
    """`ImageNet-1k`, `ImageNet-R`, `iNaturalist 2018`, `Places205`, ...; None for any other folder."""
    if not path.is_dir():
        return None
    year = inaturalist_year(path)
    return (
        ("ImageNet-1k" if is_imagenet(path) else None)
        or shifted_name(path)
        or (f"iNaturalist {year}" if year else None)
        or places_name(path)
    )
