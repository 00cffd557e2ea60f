"""One small tree of every layout with a truth per pixel: pictures of 24 × 16 whose truth is known."""

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {0: (128, 0, 0), 1: (0, 128, 0), 2: (0, 0, 128)}


def grey(i: int) -> np.ndarray:
    return np.full((16, 24, 3), 20 + 10 * i, dtype=np.uint8)


def labels(i: int) -> np.ndarray:
    """Three columns of labels 0, 1, 2, turned by `i`; the first row is void."""
    row = (np.arange(24) // 8 + i) % 3
    stored = np.repeat(row[None], 16, axis=0).astype(np.uint8)
    stored[0] = 255
    return stored


def metres(i: int) -> np.ndarray:
    """A slope from 1 to 3 metres, plus `i` centimetres; the first row was not measured."""
    slope = np.linspace(1, 3, 16)[:, None] + np.zeros(24) + i / 100
    slope[0] = 0
    return slope


def save(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, values)
    else:
        Image.fromarray(values).save(path)


def encoded(values: np.ndarray, kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.fromarray(values).save(out, kind)
    return out.getvalue()


def millimetres(i: int) -> np.ndarray:
    return (metres(i) * 1000).round().astype(np.uint16)


def tar(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def folders(root: Path, images: str = "images", truths: str = "masks", count: int = 4) -> Path:
    for i in range(count):
        save(root / images / f"{i}.jpg", grey(i))
        save(root / truths / f"{i}.png", labels(i))
    return root


def voc(root: Path) -> Path:
    base = root / "VOCdevkit" / "VOC2012"
    lists = base / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for i in range(4):
        save(base / "JPEGImages" / f"{i}.jpg", grey(i))
        picture = Image.fromarray(labels(i), "P")
        picture.putpalette([value for n in range(256) for value in (n, 255 - n, 7)])
        (base / "SegmentationClass").mkdir(exist_ok=True)
        picture.save(base / "SegmentationClass" / f"{i}.png")
    (lists / "train.txt").write_text("0\n1\n2\n")
    (lists / "val.txt").write_text("3\n")
    return root


def ade20k(root: Path) -> Path:
    base = root / "ADEChallengeData2016"
    for i, split in enumerate(("training", "training", "validation")):
        save(base / "images" / split / f"{i}.jpg", grey(i))
        stored = labels(i) + 1
        stored[0] = 0
        save(base / "annotations" / split / f"{i}.png", stored)
    rows = ["Idx Ratio Train Val Stuff Name", "1 .1 1 1 1 wall,w", "2 .1 1 1 1 sky", "3 .1 1 1 1 tree"]
    table = "\n".join(row.replace(" ", "\t") for row in rows)
    (base / "objectInfo150.txt").write_text(table)
    return root


def pack(root: Path) -> Path:
    for split, numbers in (("train", (0, 1, 2)), ("test", (3,))):
        members = {}
        for i in numbers:
            members |= {f"{i}.jpg": encoded(grey(i), "JPEG"), f"{i}.seg.png": encoded(labels(i))}
            members |= {f"{i}.depth.png": encoded(millimetres(i)), f"{i}.pose.txt": b"1 0 0"}
        tar(root / f"pack-{split}.tar", members)
    (root / "classes.json").write_text('{"0": "a", "1": "b", "2": "c", "3": "Void"}')
    (root / "meta.json").write_text('{"members": ".jpg, .depth.png (uint16 mm, 0 = invalid)"}')
    return root


def nyu_lists(root: Path) -> Path:
    for split, base, numbers in (("train", "sync", (0, 1, 2)), ("test", "official_splits/test", (3,))):
        lines = []
        for i in numbers:
            save(root / base / "kitchen" / f"rgb_0000{i}.jpg", grey(i))
            save(root / base / "kitchen" / f"sync_depth_0000{i}.png", millimetres(i))
            lines.append(f"/kitchen/rgb_0000{i}.jpg /kitchen/sync_depth_0000{i}.png 518.8579")
        (root / f"nyudepthv2_{split}_files_with_gt.txt").write_text("\n".join(lines))
    return root


def nyu_folders(root: Path) -> Path:
    for i, split in enumerate(("train", "train", "test")):
        base = root / "official_splits" / split / "kitchen"
        save(base / f"rgb_0000{i}.jpg", grey(i))
        save(base / f"sync_depth_0000{i}.png", millimetres(i))
        save(base / f"depth_0000{i}.png", millimetres(9))
    return root


def nyu_matlab(root: Path) -> Path:
    import h5py
    from scipy.io import savemat

    root.mkdir(parents=True, exist_ok=True)
    with h5py.File(root / "nyu_depth_v2_labeled.mat", "w") as file:
        file["images"] = np.stack([grey(i).transpose(2, 1, 0) for i in range(3)])
        file["depths"] = np.stack([metres(i).T for i in range(3)]).astype(np.float32)
    savemat(root / "splits.mat", {"trainNdxs": np.array([[1], [3]]), "testNdxs": np.array([[2]])})
    return root


def _drive(root: Path, i: int, raw: str, ground: str) -> tuple[str, str]:
    drive = f"2011_09_26_drive_000{i}_sync"
    image = f"2011_09_26/{drive}/image_02/data/000000000{i}.png"
    depth = f"{drive}/proj_depth/groundtruth/image_02/000000000{i}.png"
    save(root / raw / image, grey(i))
    save(root / ground / depth, (metres(i) * 256).round().astype(np.uint16))
    return image, depth


def kitti_lists(root: Path) -> Path:
    for split, numbers in (("train", (0, 1)), ("test", (2,))):
        lines = [" ".join((*_drive(root, i, "raw", "gt_depth"), "721.5377")) for i in numbers]
        lines.append("2011_09_26/x/image_02/data/0.png None 721.5377")
        (root / f"kitti_eigen_{split}.txt").write_text("\n".join(lines))
    return root


def kitti_folders(root: Path) -> Path:
    for i, split in enumerate(("train", "train", "val")):
        _drive(root, i, "raw", f"data_depth_annotated/{split}")
    return root


LABEL_LAYOUTS = {
    "folders": folders,
    "splits inside": lambda root: folders(
        folders(root, "images/train", "masks/train"), "images/val", "masks/val", 2
    ),
    "splits outside": lambda root: folders(
        folders(root, "train/images", "train/labels"), "test/images", "test/labels", 2
    ),
    "trainannot": lambda root: folders(folders(root, "train", "trainannot"), "val", "valannot", 2),
    "voc": voc,
    "ade20k": ade20k,
    "pack": pack,
}
DEPTH_LAYOUTS = {
    "pack": pack,
    "NYUv2 lists": nyu_lists,
    "NYUv2 folders": nyu_folders,
    "NYUv2 MATLAB": nyu_matlab,
    "KITTI lists": kitti_lists,
    "KITTI folders": kitti_folders,
}
