"""What the 50,000 validation images of ImageNet-1k show, from whichever file says so.

| file                                         | from                | says                             |
|----------------------------------------------|---------------------|----------------------------------|
| `LOC_val_solution.csv`                       | Kaggle              | image, WordNet id and boxes      |
| `meta.bin`                                   | torchvision         | WordNet ids in order             |
| `imagenet_2012_validation_synset_labels.txt` | TensorFlow          | WordNet ids in order             |
| `ILSVRC2012_validation_ground_truth.txt`     | the official devkit | numbers that `meta.mat` explains |
| `val.txt`                                    | Caffe               | image and number, by WordNet id  |
| `Annotations/CLS-LOC/val/*.xml`              | official, Kaggle    | one file for each image          |

They are looked for beside `train` and `val`, in a devkit folder there, and in the folders above.
"""

import csv
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nexus.errors import DataError

VALIDATION = re.compile(r"ILSVRC2012_val_(\d{8})", re.IGNORECASE)

Wnids = Callable[[int], str | None]
"""From the number of a validation image, counted from 1, to its WordNet id."""


def validation_wnids(root: Path, names: Sequence[str]) -> list[str | None]:
    """The WordNet id of each validation image, None where none is known; `DataError` without any file."""
    folders = _folders(root)
    for name, reader in READERS.items():
        file = next((folder / name for folder in folders if (folder / name).is_file()), None)
        if file is not None:
            said = reader(file, folders)
            return [_of(said, name) for name in names]
    xml = next((folder / _XML for folder in folders if (folder / _XML).is_dir()), None)
    if xml is not None:
        return [_annotated(xml / f"{Path(name).stem}.xml") for name in names]
    raise DataError(
        f"the validation images in {root / 'val'} lie flat, and no file says what they show; put "
        "ILSVRC2012_devkit_t12 (or LOC_val_solution.csv, or the Annotations folder) beside them, or sort "
        "them into one folder for each WordNet id"
    )


_XML = Path("Annotations/CLS-LOC/val")


def _folders(root: Path) -> list[Path]:
    """Where to look: the root, devkits in it, then the same in the folders above it."""
    above = [root, *list(root.parents)[:3]]
    inside = ("", "devkit", "devkit/data", "ILSVRC2012_devkit_t12", "ILSVRC2012_devkit_t12/data")
    return [folder / name for folder in above for name in inside]


def _of(said: Wnids, name: str) -> str | None:
    found = VALIDATION.search(name)
    return said(int(found[1])) if found else None


def _in_order(wnids: Sequence[str]) -> Wnids:
    return lambda number: wnids[number - 1] if 0 < number <= len(wnids) else None


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {file}: {error}") from None


def _kaggle(file: Path, folders: Sequence[Path]) -> Wnids:
    rows = [row for row in csv.reader(_lines(file)) if len(row) >= 2 and VALIDATION.search(row[0])]
    table = {int(VALIDATION.findall(row[0])[0]): row[1].partition(" ")[0] for row in rows}
    return table.get


def _ids(file: Path, folders: Sequence[Path]) -> Wnids:
    return _in_order([line.strip() for line in _lines(file) if line.strip()])


def _torchvision(file: Path, folders: Sequence[Path]) -> Wnids:
    import torch

    try:
        _, wnids = torch.load(file, weights_only=True)
    except Exception as error:
        raise DataError(f"{file} is not torchvision's list of validation labels: {error}") from None
    return _in_order([str(wnid) for wnid in wnids])


def _devkit(file: Path, folders: Sequence[Path]) -> Wnids:
    numbers = [int(line) for line in _lines(file) if line.strip()]
    meta = next((folder / "meta.mat" for folder in folders if (folder / "meta.mat").is_file()), None)
    if meta is None:
        raise DataError(
            f"{file} numbers the classes as meta.mat of the same devkit does, and that is not there; put it "
            "beside"
        )
    wnid = _synsets(meta)
    return _in_order([wnid.get(number, "") for number in numbers])


def _synsets(meta: Path) -> dict[int, str]:
    """The devkit's own numbers 1..1000 (not in alphabetical order) to WordNet ids."""
    try:
        from scipy.io import loadmat
    except ImportError:
        raise DataError(
            f"{meta} is read with SciPy, which is not installed; pip install scipy, or put "
            "LOC_val_solution.csv beside the images"
        ) from None
    try:
        synsets: Any = loadmat(meta, squeeze_me=True)["synsets"]
        return {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets}
    except (KeyError, ValueError, TypeError, OSError) as error:
        raise DataError(f"{meta} is not the devkit's list of classes: {error}") from None


def _caffe(file: Path, folders: Sequence[Path]) -> Wnids:
    rows = [line.split() for line in _lines(file)]
    numbers = {int(VALIDATION.findall(row[0])[0]): int(row[1]) for row in rows if len(row) == 2}
    known = _all_wnids(folders)
    if len(known) <= max(numbers.values(), default=0):
        raise DataError(
            f"{file} numbers {max(numbers.values()) + 1:,} classes, but only {len(known):,} are known; put "
            "synset_words.txt beside it, or unpack the training images"
        )
    return lambda number: known[numbers[number]] if number in numbers else None


def _all_wnids(folders: Sequence[Path]) -> list[str]:
    """All WordNet ids in alphabetical order: from a list of synsets, or the training folders."""
    for name in ("synset_words.txt", "LOC_synset_mapping.txt", "synsets.txt", "labels.txt"):
        file = next((folder / name for folder in folders if (folder / name).is_file()), None)
        if file is not None:
            found = [re.match(r"n\d{8}", line) for line in _lines(file)]
            return sorted(match[0] for match in found if match)
    train = next((folder / "train" for folder in folders if (folder / "train").is_dir()), None)
    return [] if train is None else sorted(path.name for path in train.iterdir() if path.is_dir())


def _annotated(file: Path) -> str | None:
    """The first object of an annotation; the file says no more about the class."""
    try:
        found = re.search(r"<object>.*?<name>\s*(n\d{8})\s*</name>", file.read_text(), re.DOTALL)
    except OSError:
        return None
    return found[1] if found else None


READERS: dict[str, Callable[[Path, Sequence[Path]], Wnids]] = {
    "LOC_val_solution.csv": _kaggle,
    "meta.bin": _torchvision,
    "imagenet_2012_validation_synset_labels.txt": _ids,
    "ILSVRC2012_validation_ground_truth.txt": _devkit,
    "val.txt": _caffe,
}
