"""Revisited Oxford and Paris (Radenović et al., arXiv 1803.11285), as they lie on disk.

::

    roxford5k/
      gnd_roxford5k.pkl   or .json: imlist, qimlist, and gnd: for each query its easy, hard, junk, bbx
      jpg/NAME.jpg        the 4,993 (Paris: 6,322) images and the 70 queries

A query is cut out at its box. Three protocols read the same lists:

| protocol | right        | ignored       |
|----------|--------------|---------------|
| easy     | easy         | junk and hard |
| medium   | easy, hard   | junk          |
| hard     | hard         | junk and easy |

A query without a right image under a protocol is not counted in it.
"""

import io
import json
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nexus.data.datasets.base import ImageDataset
from nexus.data.datasets.folder import FileDataset
from nexus.data.images import DEFAULT_LIMITS
from nexus.errors import DataError
from nexus.evals.retrieval.truth import ListTruth, Truth

PROTOCOLS = {
    "easy": (("easy",), ("junk", "hard")),
    "medium": (("easy", "hard"), ("junk",)),
    "hard": (("hard",), ("junk", "easy")),
}
"""Lists of right and of ignored images."""

SIZES = {"roxford5k": (70, 4993), "rparis6k": (70, 6322)}
"""Queries and images of the released sets, by the name of their file."""

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Landmarks:
    """Queries, gallery, and what is right under each protocol."""

    queries: ImageDataset
    gallery: ImageDataset
    truths: dict[str, Truth]
    note: str
    """One phrase: what was found, and whether that is the released set."""


def find_ground_truth(spec: object) -> Path | None:
    """The ground truth file that a folder holds, or that `spec` is; None where there is none."""
    if not isinstance(spec, str | Path):
        return None
    path = Path(spec).expanduser()
    if path.is_file() and path.name.startswith("gnd_") and path.suffix in (".pkl", ".json"):
        return path
    if not path.is_dir():
        return None
    return next((f for ending in ("json", "pkl") for f in sorted(path.glob(f"gnd_*.{ending}"))), None)


def read_landmarks(path: Path) -> Landmarks:
    """The set that a ground truth file describes. Raises `DataError` for one that is not as above."""
    content = _load(path)
    try:
        names, asked, entries = content["imlist"], content["qimlist"], content["gnd"]
        lists = [
            {key: np.asarray(entry.get(key, ()), dtype=np.int64) for key in ("easy", "hard", "junk")}
            for entry in entries
        ]
        boxes = [_box(entry.get("bbx")) for entry in entries]
        names, asked = [str(name) for name in names], [str(name) for name in asked]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{path} is no ground truth of landmarks ({error!r}); it needs imlist, qimlist and gnd, a list "
            "with easy, hard, junk (row numbers of imlist) and bbx for each query"
        ) from None
    if len(asked) != len(lists):
        raise DataError(f"{path} names {len(asked)} queries, but gnd has {len(lists)} entries")
    numbers = np.concatenate([rows for entry in lists for rows in entry.values()] or [np.empty(0, np.int64)])
    if len(numbers) and not 0 <= numbers.min() <= numbers.max() < len(names):
        raise DataError(
            f"{path} points at image {int(numbers.max())} of {len(names)}; was it made for other images?"
        )
    folder = path.parent / "jpg" if (path.parent / "jpg").is_dir() else path.parent
    gallery = _files(folder, names, f"{len(names):,} images of {path.name}")
    queries = _files(folder, asked, f"{len(asked):,} queries of {path.name}")
    truths: dict[str, Truth] = {
        name: ListTruth(
            tuple(np.concatenate([entry[key] for key in right]) for entry in lists),
            tuple(np.concatenate([entry[key] for key in ignored]) for entry in lists),
        )
        for name, (right, ignored) in PROTOCOLS.items()
    }
    return Landmarks(CutOut(queries, boxes), gallery, truths, _note(path, len(asked), len(names)))


class CutOut(ImageDataset):
    """Images cut to a box (left, top, right, bottom in pixels); None leaves one whole."""

    def __init__(self, base: ImageDataset, boxes: list[Box | None]) -> None:
        super().__init__(f"{base.description}, cut out", base.limits)
        self.base, self.boxes = base, boxes

    def __len__(self) -> int:
        return len(self.base)

    def name(self, i: int) -> str:
        """The name of the whole image."""
        return self.base.name(i)

    def read(self, i: int) -> bytes:
        """The part inside the box as PNG; the file itself where there is no box."""
        box = self.boxes[i]
        if box is None:
            return self.base.read(i)
        image = self.base[i].image
        left, top, right, bottom = (round(edge) for edge in box)
        left, top = min(max(left, 0), image.width - 1), min(max(top, 0), image.height - 1)
        right, bottom = min(max(right, left + 1), image.width), min(max(bottom, top + 1), image.height)
        file = io.BytesIO()
        image.crop((left, top, right, bottom)).save(file, "PNG", compress_level=1)
        return file.getvalue()


def _box(numbers: Any) -> Box | None:
    if numbers is None or len(numbers) == 0:
        return None
    left, top, right, bottom = (float(number) for number in numbers)
    return left, top, right, bottom


def _files(folder: Path, names: list[str], what: str) -> FileDataset:
    with_ending = [name if "." in Path(name).name else f"{name}.jpg" for name in names]
    return FileDataset(folder, with_ending, what, DEFAULT_LIMITS)


def _note(path: Path, queries: int, images: int) -> str:
    note = f"{queries} queries in {images:,} images"
    released = SIZES.get(path.stem.removeprefix("gnd_"))
    if released is not None and released != (queries, images):
        note += f" (the released set has {released[0]} in {released[1]:,})"
    return note


def _load(path: Path) -> dict[str, Any]:
    try:
        if path.suffix == ".json":
            content = json.loads(path.read_text(encoding="utf-8"))
        else:
            content = _Plain(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None
    except DataError:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        raise DataError(f"{path} is damaged ({error or type(error).__name__}); copy it again") from None
    if not isinstance(content, dict):
        raise DataError(f"{path} holds a {type(content).__name__}, not the dictionary of a ground truth file")
    return content


class _Plain(pickle.Unpickler):
    """Lists, dictionaries, numbers, strings and NumPy arrays; anything else in a pickle is refused unread."""

    def find_class(self, module: str, name: str) -> Any:
        """What a pickle may build."""
        if module in ("numpy", "numpy.core.multiarray", "numpy._core.multiarray", "numpy.core.numeric"):
            found = {
                "dtype": np.dtype,
                "ndarray": np.ndarray,
                "_reconstruct": np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
                "scalar": np._core.multiarray.scalar,  # type: ignore[attr-defined]
            }
            if name in found:
                return found[name]
        if (module, name) == ("_codecs", "encode"):
            return _latin
        raise DataError(
            f"a pickle that wants {module}.{name} could run anything and is not read; give the lists as JSON"
        )


def _latin(text: str, encoding: str = "latin1") -> bytes:
    return text.encode("latin1")
