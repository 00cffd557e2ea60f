"""NYUv2 and KITTI as people have them, and any folder with lists of `image depth` pairs.

::

    nyu_depth_v2_labeled.mat [splits.mat]             NYUv2, the labelled 1,449 images
    *train*.txt  *test*.txt                           lists: image, depth, more words a line (BTS, Eigen)
    official_splits/{train,test}/SCENE/rgb_0.jpg      NYUv2 as BTS unpacks it
    .../DRIVE/proj_depth/groundtruth/image_02/*.png   KITTI, beside the raw DATE/DRIVE/image_02/data/*.png
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nexus.data.datasets.extras import optional
from nexus.data.datasets.splits import canonical
from nexus.data.dense.depth_maps import KITTI, MILLIMETRES
from nexus.data.dense.entries import FileEntry, MatlabEntry
from nexus.data.dense.layout import DEPTH, Kind, Layout
from nexus.data.dense.pairs import Pair, files_below, pair_up
from nexus.errors import DataError

NYU_SIZES = {"train": 795, "test": 654}
EIGEN_TEST = 652
_NYU_MAT = "nyu_depth_v2_labeled.mat"
_SPLIT = re.compile(r"(train|test|val|valid|validation)", re.IGNORECASE)
_BASES = ("", "raw", "raw_data", "kitti_raw", "input", "rgb", "sync", "train", "official_splits/test", "data")
_GROUND = (
    "",
    "data_depth_annotated",
    "gt_depth",
    "depth",
    "sync",
    "train",
    "val",
    "official_splits/test",
    "data",
)


def find_nyu_matlab(root: Path, kind: Kind) -> Layout | None:
    """The labelled part of NYUv2 in its MATLAB file; the official split where `splits.mat` lies beside it."""
    file = root if root.name.endswith(".mat") else root / _NYU_MAT
    if kind != DEPTH or not file.is_file():
        return None
    h5py = optional("h5py", "hdf5", f"{file}: a MATLAB 7.3 file")
    try:
        with h5py.File(file, "r") as content:
            images, depths = content["images"].shape, content["depths"].shape
    except (OSError, KeyError) as error:
        raise DataError(
            f"{file} is not NYUv2's labelled file (images, depths in HDF5): {error}; download it again"
        ) from None
    if images[0] != depths[0] or images[2:] != depths[1:]:
        raise DataError(f"{file}: images {images} and depths {depths} do not fit together; download it again")
    rows = _matlab_split(file.parent / "splits.mat", images[0])
    splits = {split: tuple(_matlab_pair(file, row) for row in chosen) for split, chosen in rows.items()}
    expected = NYU_SIZES if len(splits) == 2 else {}
    return Layout(
        *("NYUv2", str(file), splits),
        scale=1.0,
        scale_reason="NYUv2's MATLAB file holds metres",
        max_depth=10.0,
        eval_crop="nyu",
        expected=expected,
    )


def _matlab_pair(file: Path, row: int) -> Pair:
    return Pair(
        f"{row + 1:04d}", MatlabEntry(str(file), "images", row), MatlabEntry(str(file), "depths", row)
    )


def _matlab_split(file: Path, count: int) -> dict[str, Sequence[int]]:
    """Rows of the official split, counted from 0; all in one where the file is not there."""
    if not file.is_file():
        return {"": range(count)}
    from scipy.io import loadmat

    values = loadmat(file)
    rows = {split: np.asarray(values[f"{split}Ndxs"]).ravel() - 1 for split in ("train", "test")}
    return {split: [int(row) for row in chosen if row < count] for split, chosen in rows.items()}


def find_depth_lists(root: Path, kind: Kind) -> Layout | None:
    """Lists with an image and its depth a line, relative to the folder or to one of the usual ones in it."""
    if kind != DEPTH or not root.is_dir():
        return None
    lists = [file for file in sorted(root.glob("*.txt")) if _SPLIT.search(file.stem)]
    splits: dict[str, tuple[Pair, ...]] = {}
    for file in lists:
        word = canonical(_SPLIT.search(file.stem)[1])  # type: ignore[index]
        pairs = _listed(root, file)
        if pairs and word in splits:
            raise DataError(f"{root} has two lists for {word!r}; keep one, such as {file.name}")
        if pairs:
            splits[word] = pairs
    if not splits:
        return None
    names = " ".join([root.name, *(file.name for file in lists)]).lower()
    example = next(iter(splits.values()))[0]
    return _named(names + example.truth.name.lower(), root, splits)


def _listed(root: Path, file: Path) -> tuple[Pair, ...]:
    """The pairs of one list. `None` in place of a depth (KITTI's lists) leaves the image out."""
    lines = [line.split() for line in file.read_text(encoding="utf-8", errors="replace").splitlines()]
    wanted = [words for words in lines if len(words) >= 2 and words[1] != "None"]
    pairs, missing = [], ""
    for words in wanted:
        image, depth = _resolve(root, words[0], _BASES), _resolve(root, words[1], _GROUND)
        if image and depth:
            pairs.append(Pair(words[0].lstrip("/"), FileEntry(image), FileEntry(depth)))
        else:
            missing = missing or words[0 if image is None else 1]
    if wanted and len(pairs) < len(wanted) and (pairs or _looks_like_images(wanted)):
        raise DataError(
            f"{file} names {len(wanted):,} pairs, but {len(wanted) - len(pairs):,} are not there, first "
            f"{missing}; looked "
            f"for it below {root} and its folders {', '.join(filter(None, _BASES[:5]))}, ...; unpack the "
            "images there"
        )
    return tuple(pairs)


def _looks_like_images(lines: Sequence[Sequence[str]]) -> bool:
    return all(words[0].lower().endswith((".jpg", ".jpeg", ".png")) for words in lines)


def _resolve(root: Path, name: str, bases: Sequence[str]) -> str | None:
    name = name.lstrip("/")
    paths = (os.path.join(root, base, name) for base in bases)
    return next((path for path in paths if os.path.isfile(path)), None)


def _named(words: str, root: Path, splits: dict[str, tuple[Pair, ...]]) -> Layout:
    """The layout of a list or folder, by the name of the data set that it speaks of."""
    if "nyu" in words or "sync_depth" in words:
        return Layout(
            *("NYUv2", str(root), splits),
            scale=MILLIMETRES,
            scale_reason="NYUv2's PNG files hold millimetres",
            max_depth=10.0,
            eval_crop="nyu",
            expected={"test": NYU_SIZES["test"]},
        )
    if "kitti" in words or "proj_depth" in words:
        return Layout(
            *("KITTI", str(root), splits),
            scale=KITTI,
            scale_reason="KITTI's PNG files hold metres × 256",
            max_depth=80.0,
            eval_crop="garg",
            expected={"test": EIGEN_TEST},
        )
    return Layout("lists", str(root), splits)


def find_nyu_folders(root: Path, kind: Kind) -> Layout | None:
    """`{train,test}/SCENE/rgb_00000.jpg` with `sync_depth_00000.png`, in `official_splits` perhaps."""
    if kind != DEPTH or not root.is_dir():
        return None
    base = root / "official_splits" if (root / "official_splits").is_dir() else root
    splits = {}
    for folder in sorted(path for path in base.iterdir() if path.is_dir() and _is_split(path.name)):
        files = files_below(folder)
        depths = {name: entry for name, entry in files.items() if "sync_depth_" in name}
        images = {name: entry for name, entry in files.items() if name.rpartition("/")[2].startswith("rgb_")}
        if images and depths:
            splits[folder.name] = pair_up(images, depths, str(folder), kind)
    return _named("nyu", root, splits) if splits else None


def find_kitti_folders(root: Path, kind: Kind) -> Layout | None:
    """KITTI's annotated depth, by split, with the raw images that belong to it."""
    if kind != DEPTH or not root.is_dir():
        return None
    splits = {}
    for folder in sorted({*root.glob("*"), *root.glob("data_depth_annotated/*")}):
        if folder.is_dir() and _is_split(folder.name):
            pairs = _kitti_pairs(root, folder)
            if pairs:
                splits[folder.name] = pairs
    return _named("kitti", root, splits) if splits else None


def _kitti_pairs(root: Path, folder: Path) -> tuple[Pair, ...]:
    pairs, missing = [], ""
    depths = sorted(folder.glob("*/proj_depth/groundtruth/image_0[23]/*.png"))
    for depth in depths:
        drive, camera = depth.parents[3].name, depth.parent.name
        name = f"{drive[:10]}/{drive}/{camera}/data/{depth.stem}"
        found = (_resolve(root, name + ending, _BASES) for ending in (".png", ".jpg"))
        image = next(filter(None, found), None)
        if image is None:
            missing = missing or name
        else:
            pairs.append(Pair(os.path.relpath(image, root), FileEntry(image), FileEntry(str(depth))))
    if depths and not pairs:
        raise DataError(
            f"{folder} has {len(depths):,} depth maps, but no raw image belongs to them, such as "
            f"{missing}.png; put the "
            f"raw recordings into {root} or {root / 'raw'}"
        )
    return tuple(pairs)


def _is_split(name: str) -> bool:
    return canonical(name) in ("train", "val", "test")
