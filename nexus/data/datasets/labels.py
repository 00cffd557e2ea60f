"""Integer labels from whatever a source offers: class folders, numbers, names.

A label is -1 where it is unknown; `classes[label]` is its name.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

Labels = Int64[np.ndarray, " samples"]
Classes = tuple[str, ...]

_MAX_INTEGER_LABEL = 1_000_000
_NOT_CLASSES = frozenset(
    {"train", "training", "val", "valid", "validation", "dev", "test", "testing", "all", "data"}
    | {"images", "image", "imgs", "img", "photos", "pictures", "jpegimages", "unlabeled", "unlabelled"}
    | {"masks", "labels", "annotations", "depth"}
)
_MISSING = ("", "-1", "none", "nan", "null")


def encode_labels(
    values: Sequence[str | None], class_names: Sequence[str | None] | None = None
) -> tuple[Labels | None, Classes]:
    """Labels and classes of one text value per image; `None`, `""`, `"-1"`, `"nan"` are unknown.

    Whole numbers 0..1,000,000 are kept as they are (and named by `class_names`, one per image, where
    given); otherwise the different values, sorted, are the classes. No known value: no labels.
    """
    known = [_known(value) for value in values]
    distinct = sorted({value for value in known if value is not None})
    if not distinct:
        if class_names is not None and any(class_names):
            return encode_labels(class_names)
        return None, ()
    numbers = {value: _whole(value) for value in distinct}
    if any(number is None for number in numbers.values()):
        numbers = {value: i for i, value in enumerate(distinct)}
        classes = distinct
    else:
        classes = [str(i) for i in range(max(n for n in numbers.values() if n is not None) + 1)]
        for value, name in zip(known, class_names or (), strict=False):
            if value is not None and name:
                classes[numbers[value] or 0] = name
    labels = [-1 if value is None else numbers[value] for value in known]
    return np.array(labels, dtype=np.int64), tuple(classes)


def folder_labels(names: Sequence[str]) -> tuple[Labels | None, Classes]:
    """Labels from first-level folders: iff every name lies in one, there are at least two of them,
    and none has a name such as `train` or `images`, which says that folders are not classes.
    """
    folders = [name.split("/", 1)[0] if "/" in name else "" for name in names]
    classes = sorted(set(folders))
    if len(classes) < 2 or "" in classes or any(c.lower() in _NOT_CLASSES for c in classes):
        return None, ()
    index = {folder: i for i, folder in enumerate(classes)}
    return np.array([index[folder] for folder in folders], dtype=np.int64), tuple(classes)


def without_outer_folder(names: Sequence[str]) -> list[str]:
    """`imgs/cat/1.jpg` as `cat/1.jpg` where everything in an archive lies in `imgs`."""
    names = [name.removeprefix("./") for name in names]
    outer = names[0].partition("/")[0] + "/"
    if not all(name.startswith(outer) for name in names):
        return names
    return [name.removeprefix(outer) for name in names]


def _known(value: str | None) -> str | None:
    value = value.strip() if value is not None else ""
    return None if value.lower() in _MISSING else value


def _whole(value: str) -> int | None:
    """A whole number; `3.0`, as spreadsheets write it, is one."""
    try:
        number = float(value)
    except ValueError:
        return None
    whole = number.is_integer() and 0 <= number <= _MAX_INTEGER_LABEL
    return int(number) if whole else None
