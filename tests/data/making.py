"""One small source of every kind: six pictures of 24 x 16, whose grey level says which one it is."""

import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

LEVELS = [20, 60, 100, 140, 180, 220]
LABELS = [0, 1, 2, 0, 1, 2]
CLASSES = ("ant", "bee", "cat")


def pixels(i: int) -> np.ndarray:
    return np.full((16, 24), LEVELS[i], dtype=np.uint8)


def png(i: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels(i)).save(file, "PNG")
    return file.getvalue()


def member(i: int) -> str:
    return f"{CLASSES[LABELS[i]]}/{i}.png"


def stack(channels: int | None = None) -> np.ndarray:
    grey = np.stack([pixels(i) for i in range(6)])
    return grey if channels is None else np.repeat(grey[..., None], channels, axis=3)


def folder(root: Path) -> str:
    for i in range(6):
        path = root / "imgs" / member(i)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(i))
    return str(root / "imgs")


def pattern(root: Path) -> str:
    return folder(root) + "/*/*.png"


def list_of_files(root: Path) -> str:
    folder(root)
    rows = [f"imgs/{member(i)},{CLASSES[LABELS[i]]}" for i in range(6)]
    (root / "list.csv").write_text("path,class\n" + "\n".join(rows))
    return str(root / "list.csv")


def tar(root: Path, numbers: range = range(6), name: str = "a.tar") -> str:
    with tarfile.open(root / name, "w") as archive:
        for i in numbers:
            info = tarfile.TarInfo(member(i))
            info.size = len(png(i))
            archive.addfile(info, io.BytesIO(png(i)))
    return str(root / name)


def tars(root: Path) -> str:
    for shard in range(3):
        tar(root, range(2 * shard, 2 * shard + 2), f"s-{shard}.tar")
    return str(root)


def zip_file(root: Path) -> str:
    with zipfile.ZipFile(root / "a.zip", "w") as archive:
        for i in range(6):
            archive.writestr(member(i), png(i))
    return str(root / "a.zip")


def parquet(root: Path, name: str = "a.parquet", row_group_size: int = 2) -> str:
    import pyarrow as pa
    import pyarrow.parquet

    images = [{"bytes": png(i), "path": None} for i in range(6)]
    table = pa.table({"image": images, "label": [CLASSES[label] for label in LABELS]})
    pyarrow.parquet.write_table(table, root / name, row_group_size=row_group_size)
    return str(root / name)


def parquets(root: Path) -> str:
    import pyarrow as pa
    import pyarrow.parquet

    for part in range(2):
        chosen = range(3 * part, 3 * part + 3)
        table = pa.table({"jpg": [png(i) for i in chosen], "cls": [LABELS[i] for i in chosen]})
        pyarrow.parquet.write_table(table, root / f"part-{part}.parquet")
    return str(root)


def saved(root: Path) -> str:
    import datasets

    columns = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))}
    )
    rows = {"image": [{"bytes": png(i), "path": None} for i in range(6)], "label": LABELS}
    datasets.Dataset.from_dict(rows, features=columns).save_to_disk(root / "saved", num_shards=2)
    return str(root / "saved")


def lmdb(root: Path) -> str:
    import lmdb as library

    with library.open(str(root / "db"), map_size=1 << 20) as database, database.begin(write=True) as writing:
        for i in range(6):
            writing.put(member(i).encode(), png(i))
    return str(root / "db")


def hdf5(root: Path) -> str:
    import h5py

    with h5py.File(root / "a.h5", "w") as file:
        file["train_images"] = stack(3)
        file["train_labels"] = np.array(LABELS)
        file["other"] = np.zeros((2, 9, 9))
    return f"{root}/a.h5:train_images"


def zarr(root: Path) -> str:
    import zarr as library

    group = library.open_group(str(root / "a.zarr"), mode="w")
    group.create_array("images", data=stack())
    group.create_array("labels", data=np.array(LABELS))
    return str(root / "a.zarr")


def npy(root: Path) -> str:
    np.save(root / "images.npy", np.moveaxis(stack(3), 3, 1))
    np.save(root / "labels.npy", np.array(LABELS))
    return str(root / "images.npy")


def npz(root: Path) -> str:
    np.savez_compressed(root / "a.npz", x_train=stack(1), y_train=np.array(LABELS))
    return str(root / "a.npz")


def dicom(root: Path) -> str:
    for i in range(6):
        path = root / "dicom" / member(i).replace(".png", ".dcm")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_dicom(path, pixels(i).astype(np.uint16), WindowCenter=128, WindowWidth=256)
    return str(root / "dicom")


def write_dicom(path: Path, values: np.ndarray, photometric: str = "MONOCHROME2", **tags: object) -> None:
    """A file with `values`, (frames, height, width) or (height, width), and further header entries."""
    import pydicom
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    header = pydicom.Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.file_meta.MediaStorageSOPClassUID = CTImageStorage
    header.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    header.SOPClassUID = CTImageStorage
    header.SOPInstanceUID = header.file_meta.MediaStorageSOPInstanceUID
    header.Rows, header.Columns = values.shape[-2:]
    if values.ndim == 3:
        header.NumberOfFrames = values.shape[0]
    header.SamplesPerPixel = 1
    header.PhotometricInterpretation = photometric
    header.BitsAllocated = header.BitsStored = 8 * values.dtype.itemsize
    header.HighBit = header.BitsStored - 1
    header.PixelRepresentation = int(values.dtype.kind == "i")
    for key, value in tags.items():
        setattr(header, key, value)
    header.PixelData = values.tobytes()
    header.save_as(path, enforce_file_format=True)


def rasters(root: Path) -> str:
    import tifffile

    for i in range(6):
        path = root / "tif" / member(i).replace(".png", ".tif")
        path.parent.mkdir(parents=True, exist_ok=True)
        values = np.stack([pixels(i), 255 - pixels(i), pixels(i) // 2, pixels(i), pixels(i)])
        tifffile.imwrite(
            path, values.astype(np.uint16) * 257, photometric="minisblack", planarconfig="separate"
        )
    return f"{root}/tif?bands=1,4,5"


def video(root: Path) -> str:
    import cv2

    path = str(root / "film.avi")
    writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*"MJPG"), 25, (24, 16))
    for i in range(6):
        for _ in range(3):
            writer.write(np.repeat(pixels(i)[..., None], 3, axis=2))
    writer.release()
    return f"{path}?every=3"


def urls(root: Path) -> str:
    (root / "list.txt").write_text("\n".join(f"file://{folder(root)}/{member(i)}" for i in range(6)))
    return str(root / "list.txt")


def remote_tars(root: Path) -> str:
    tars(root)
    return f"file://{root}/s-{{0..2}}.tar"


def joined(root: Path) -> str:
    tar(root, range(3), "a.tar")
    tar(root, range(3, 6), "b.tar")
    return f"{root}/a.tar,{root}/b.tar"


def mixture(root: Path) -> str:
    tar(root, range(3), "a.tar")
    tar(root, range(3, 6), "b.tar")
    return f"{root}/a.tar:0.75,{root}/b.tar:0.25"


SOURCES: dict[str, Callable[[Path], str]] = {
    make.__name__: make
    for make in (
        *(folder, pattern, list_of_files, tar, tars, zip_file, parquet, parquets, saved, lmdb, hdf5, zarr),
        *(npy, npz, dicom, rasters, video, urls, remote_tars, joined, mixture),
    )
}
UNLABELLED = {"video", "urls"}
