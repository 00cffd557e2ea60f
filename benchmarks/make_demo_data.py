"""Make the demo's embedded data set from a larger pack of images.

    python benchmarks/make_demo_data.py PACK OUT

`PACK` is a folder with `manifest.csv` (columns key, split, file, label, class) and one
`<pack>-<split>.tar` per split; here the pack `clothing10`. `OUT` gets `clothes-train.tar` (the pack's
train and validation images), `clothes-test.tar` and `manifest.csv`. The same pack and the same Pillow
give the same bytes: order, owner, mode and time of every member are fixed.
"""

import csv
import hashlib
import io
import sys
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

SHORT_SIDE = 96
LONGEST_ASPECT = 1.5
JPEG_QUALITY = 80
SPLITS = {"train": "train", "validation": "train", "test": "test"}
COLUMNS = ("key", "split", "file", "label", "class")


@dataclass(frozen=True)
class Entry:
    """One re-encoded image with its row of the new manifest."""

    row: dict[str, str]
    jpeg: bytes


def crop_long(image: Image.Image) -> Image.Image:
    """The middle of an image whose longer side is more than 1.5 times the shorter; else the image."""
    width, height = image.size
    limit = round(min(width, height) * LONGEST_ASPECT)
    if max(width, height) <= limit:
        return image
    if width > height:
        left = (width - limit) // 2
        return image.crop((left, 0, left + limit, height))
    top = (height - limit) // 2
    return image.crop((0, top, width, top + limit))


def shrink(jpeg: bytes) -> bytes:
    """The image with its shorter side at 96 pixels, upright, without metadata, as a JPEG."""
    with Image.open(io.BytesIO(jpeg)) as opened:
        image = crop_long(ImageOps.exif_transpose(opened).convert("RGB"))
    scale = SHORT_SIDE / min(image.size)
    size = (round(image.width * scale), round(image.height * scale))
    small = image.resize(size, Image.Resampling.LANCZOS)
    out = io.BytesIO()
    small.save(out, "JPEG", quality=JPEG_QUALITY, optimize=True, subsampling="4:2:0")
    return out.getvalue()


def read_members(pack: Path) -> dict[str, bytes]:
    """Every file of the pack's shards, by its name."""
    members = {}
    for shard in sorted(pack.glob("*.tar")):
        with tarfile.open(shard) as tar:
            for member in tar:
                stream = tar.extractfile(member)
                if stream is not None:
                    members[member.name] = stream.read()
    return members


def entries(pack: Path) -> Iterator[Entry]:
    """The new data set's images, in the order of the pack's manifest."""
    members = read_members(pack)
    with (pack / "manifest.csv").open(newline="") as stream:
        for line in csv.DictReader(stream):
            row = {name: line[name] for name in COLUMNS} | {"split": SPLITS[line["split"]]}
            yield Entry(row, shrink(members[line["file"]]))


def write_shard(path: Path, chosen: Iterable[Entry]) -> None:
    """A tar whose bytes depend on names and contents only."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for entry in chosen:
            info = tarfile.TarInfo(entry.row["file"])
            info.size = len(entry.jpeg)
            info.mode = 0o644
            tar.addfile(info, io.BytesIO(entry.jpeg))


def write_manifest(path: Path, rows: Iterable[dict[str, str]]) -> None:
    """The manifest of the new data set."""
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def make(pack: Path, out: Path) -> list[Path]:
    """Write the data set into `out`; the paths written."""
    out.mkdir(parents=True, exist_ok=True)
    made = list(entries(pack))
    written = []
    for split in ("train", "test"):
        shard = out / f"clothes-{split}.tar"
        write_shard(shard, [entry for entry in made if entry.row["split"] == split])
        written.append(shard)
    manifest = out / "manifest.csv"
    write_manifest(manifest, [entry.row for entry in made])
    return [*written, manifest]


def main(arguments: list[str]) -> int:
    """Command line: PACK OUT. Prints a Markdown table of what was written."""
    if len(arguments) != 2:
        print(__doc__)
        return 2
    for path in make(Path(arguments[0]), Path(arguments[1])):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        print(f"| {path.name} | {path.stat().st_size} | {digest} |")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
