"""Folders: images and truths side by side or in folders of their own, VOC, ADE20K.

::

    images/0001.jpg  masks/0001.png                   one folder each
    images/train/0001.jpg  masks/train/0001.png       splits inside
    train/images/0001.jpg  train/masks/0001.png       splits outside
    train/0001.jpg  trainannot/0001.png               SegNet's CamVid
    0001.jpg  0001.seg.png                            side by side
    JPEGImages/ SegmentationClass/ ImageSets/         VOC
    images/{training,validation} annotations/...      ADE20K
"""

from collections.abc import Mapping
from pathlib import Path

from nexus.data.datasets.splits import canonical, spellings
from nexus.data.dense import class_names
from nexus.data.dense.entries import Entry, FileEntry
from nexus.data.dense.layout import DEPTH, LABELS, Kind, Layout
from nexus.data.dense.pairs import TRUTH_ENDINGS, Pair, files_below, pair_up
from nexus.errors import DataError

IMAGE_FOLDERS = (
    "images",
    "image",
    "imgs",
    "img",
    "rgb",
    "color",
    "colour",
    "JPEGImages",
    "leftImg8bit",
    "input",
)
TRUTH_FOLDERS: Mapping[Kind, tuple[str, ...]] = {
    LABELS: (
        *("masks", "mask", "annotations", "labels", "label", "segmentation", "seg", "gt", "annot", "targets"),
        *("gtFine", "labelmaps", "SegmentationClass"),
    ),
    DEPTH: ("depth", "depths", "depth_map", "depth_maps", "gt", "gt_depth", "groundtruth_depth", "targets"),
}
BESIDE: Mapping[Kind, tuple[str, ...]] = {
    LABELS: (".seg.png", ".mask.png", ".label.png", ".labels.png", "_mask.png", "_seg.png"),
    DEPTH: (".depth.png", ".depth.npy", ".depth.tif", ".depth.tiff", "_depth.png", "_depth.npy"),
}
VOC_CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *(
        "diningtable",
        "dog",
        "horse",
        "motorbike",
        "person",
        "pottedplant",
        "sheep",
        "sofa",
        "train",
        "tvmonitor",
    ),
)
VOC_SIZES = {"train": 1464, "val": 1449}
ADE20K_SIZES = {"training": 20210, "validation": 2000}


def find_voc(root: Path, kind: Kind) -> Layout | None:
    """VOC's segmentation task, in its folder or in the `VOCdevkit` around it."""
    if kind != LABELS:
        return None
    candidates = [root, *sorted(root.glob("VOC*")), *sorted(root.glob("VOCdevkit/VOC*"))]
    found = next(
        (p for p in candidates if (p / "SegmentationClass").is_dir() and (p / "JPEGImages").is_dir()), None
    )
    if found is None:
        return None
    lists = sorted((found / "ImageSets" / "Segmentation").glob("*.txt"))
    splits = {file.stem: _voc_pairs(found, file) for file in lists if file.stem in ("train", "val", "test")}
    splits = {split: pairs for split, pairs in splits.items() if pairs}
    if not splits:
        raise DataError(
            f"{found} has VOC's folders, but no list in ImageSets/Segmentation (train.txt, val.txt) whose "
            "images have "
            "label maps; unpack the whole archive"
        )
    names = class_names.names_beside(found) or dict(enumerate(VOC_CLASSES))
    expected = VOC_SIZES if "2012" in found.name else {}
    return Layout("VOC", str(found), splits, names, expected=expected)


def _voc_pairs(root: Path, file: Path) -> tuple[Pair, ...]:
    pairs = []
    for stem in file.read_text(encoding="utf-8").split():
        image, truth = root / "JPEGImages" / f"{stem}.jpg", root / "SegmentationClass" / f"{stem}.png"
        if truth.is_file():
            pairs.append(Pair(f"{stem}.jpg", FileEntry(str(image)), FileEntry(str(truth))))
    return tuple(pairs)


def find_ade20k(root: Path, kind: Kind) -> Layout | None:
    """ADE20K as the scene parsing benchmark ships it: 150 classes, 0 means that nothing was labelled."""
    candidates = [root, *sorted(root.glob("ADE*"))]
    folders = ("images/training", "images/validation", "annotations/training", "annotations/validation")
    found = next((p for p in candidates if all((p / folder).is_dir() for folder in folders)), None)
    if kind != LABELS or found is None:
        return None
    splits = {
        split: _folder_pairs(found, f"images/{split}", f"annotations/{split}", kind) for split in ADE20K_SIZES
    }
    table = found / class_names.ADE20K
    names = class_names.ade20k_names(table) if table.is_file() else class_names.names_beside(found)
    ours = dict(enumerate(names.values(), 1)) if names and not table.is_file() else names
    return Layout("ADE20K", str(found), splits, ours, zero_is_void=True, expected=ADE20K_SIZES)


def find_folders(root: Path, kind: Kind) -> Layout | None:
    """Images and truths in folders of their own, or side by side, with or without splits."""
    if not root.is_dir():
        return None
    splits = (
        _splits_inside(root, kind)
        or _splits_outside(root, kind)
        or _split_names(root, kind)
        or _beside(root, kind)
    )
    if not splits:
        return None
    names = class_names.names_beside(root) if kind == LABELS else {}
    palette = class_names.palette_beside(root) if kind == LABELS else None
    return Layout("folder pairs", str(root), splits, names, palette)


Splits = dict[str, tuple[Pair, ...]]


def _pair_of_folders(root: Path, kind: Kind) -> tuple[str, str] | None:
    """The folder of images and the folder of truths directly below `root`."""
    below = {path.name.lower(): path.name for path in root.iterdir() if path.is_dir()}
    images = next((below[name.lower()] for name in IMAGE_FOLDERS if name.lower() in below), None)
    truths = next((below[name.lower()] for name in TRUTH_FOLDERS[kind] if name.lower() in below), None)
    return (images, truths) if images and truths else None


def _splits_inside(root: Path, kind: Kind) -> Splits:
    folders = _pair_of_folders(root, kind)
    if folders is None:
        return {}
    images, truths = folders
    words = spellings(("train", "val", "test"))
    both = [w for w in words if (root / images / w).is_dir() and (root / truths / w).is_dir()]
    if not both:
        return {"": _folder_pairs(root, images, truths, kind)}
    return {
        w: _folder_pairs(root, f"{images}/{w}", f"{truths}/{w}", kind) for w in _real(root / images, both)
    }


def _splits_outside(root: Path, kind: Kind) -> Splits:
    found: Splits = {}
    for word in _real(root, [w for w in spellings(("train", "val", "test")) if (root / w).is_dir()]):
        folders = _pair_of_folders(root / word, kind)
        if folders is not None:
            found[word] = _folder_pairs(root, f"{word}/{folders[0]}", f"{word}/{folders[1]}", kind)
    return found


def _split_names(root: Path, kind: Kind) -> Splits:
    """`train/` beside `trainannot/`, `train_labels/` or `train_depth/`."""
    found: Splits = {}
    ends = [f"{gap}{name}" for name in TRUTH_FOLDERS[kind] for gap in ("", "_", "-")]
    for word in _real(root, [w for w in spellings(("train", "val", "test")) if (root / w).is_dir()]):
        truth = next((f"{word}{end}" for end in ends if (root / f"{word}{end}").is_dir()), None)
        if truth is not None:
            found[word] = _folder_pairs(root, word, truth, kind)
    return found


def _beside(root: Path, kind: Kind) -> Splits:
    files = files_below(root, TRUTH_ENDINGS)
    images, truths = apart(files, kind)
    if not truths:
        return {}
    words = {name.partition("/")[0] for name in images}
    splits = {word for word in words if canonical(word) in ("train", "val", "test")}
    if not splits or splits != words:
        return {"": pair_up(images, truths, str(root), kind)}
    return {
        word: pair_up(_below(images, word), _below(truths, word), f"{root}/{word}", kind)
        for word in sorted(splits)
    }


def apart(files: Mapping[str, Entry], kind: Kind) -> tuple[dict[str, Entry], dict[str, Entry]]:
    """Images and truths among files that lie side by side, told apart by their endings."""
    truths = {name: entry for name, entry in files.items() if name.lower().endswith(BESIDE[kind])}
    others = tuple(ending for endings in BESIDE.values() for ending in endings)
    images = {
        name: entry
        for name, entry in files.items()
        if not name.lower().endswith(others) and not name.lower().endswith(".npy")
    }
    return images, truths


def _below(files: Mapping[str, Entry], word: str) -> dict[str, Entry]:
    return {name: entry for name, entry in files.items() if name.startswith(f"{word}/")}


def _real(folder: Path, words: list[str]) -> list[str]:
    """Each folder once, also where the file system does not tell `train` from `Train`."""
    listed = {path.name for path in folder.iterdir()}
    return [word for word in words if word in listed]


def _folder_pairs(root: Path, images: str, truths: str, kind: Kind) -> tuple[Pair, ...]:
    found, wanted = files_below(root / images), files_below(root / truths, TRUTH_ENDINGS)
    return pair_up(found, wanted, f"{root}: {images} and {truths}", kind)
