"""Which benchmark with published figures lies in a place: for classification, dense tasks and retrieval."""

from pathlib import Path

from nexus.data.datasets.known.recognition import benchmark_of
from nexus.data.dense.depth_folders import (
    find_depth_lists,
    find_kitti_folders,
    find_nyu_folders,
    find_nyu_matlab,
)
from nexus.data.dense.folders import find_ade20k
from nexus.data.dense.layout import DEPTH, LABELS
from nexus.evals.retrieval.landmarks import find_ground_truth

LANDMARKS = {"roxford5k": "Revisited Oxford", "rparis6k": "Revisited Paris"}
"""By the name of the ground truth file."""
_DENSE = {
    LABELS: (find_ade20k,),
    DEPTH: (find_nyu_matlab, find_depth_lists, find_nyu_folders, find_kitti_folders),
}


def known_benchmark(place: str | Path) -> str | None:
    """`ImageNet-1k`, `ADE20K`, `NYUv2`, `KITTI`, `Revisited Oxford`, ...; None for any other place.

    Raises `DataError` for one whose layout is known, but of which a part is missing.
    """
    path = Path(place).expanduser()
    if found := benchmark_of(path):
        return found
    if truth := find_ground_truth(path):
        return LANDMARKS.get(truth.stem.removeprefix("gnd_"))
    layouts = (find(path, kind) for kind, finders in _DENSE.items() for find in finders)
    return next((layout.name for layout in layouts if layout), None)
