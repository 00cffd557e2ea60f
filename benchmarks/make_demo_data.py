"""Make the demo's embedded data set: ten photographs, cut into tiles of 64 pixels.

    python benchmarks/make_demo_data.py PACK OUT

`PACK` is the folder `large-photos`: one tar of camera photographs. `OUT` gets `photos-train.tar`,
`photos-test.tar` and `manifest.csv`. The same pack and the same Pillow give the same bytes: order, owner,
mode and time of every member are fixed.
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

CLASSES = {
    "Canon_PowerShot_A20": "stones",
    "Casio_EX_Z3": "whale",
    "Epson_PhotoPC_3000Z": "cactus",
    "FujiFilm_MX_2900Zoom": "terrace",
    "Kodak_DX4330": "butterfly",
    "Kyocera_FC_S3": "city-hall",
    "Nikon_Coolpix_775": "daisy",
    "Panasonic_DMC_LC40": "tulips",
    "Samsung_SM_J327T1": "abbey",
    "Sanyo_S1": "offices",
}
"""What each photograph shows, by its file name in the pack; the label is its place in this order."""

LONG_SIDE = 1200
TILE = 64
BLOCK = 3 * TILE
JPEG_QUALITY = 85
SPLITS = ("train", "test")
COLUMNS = ("key", "split", "file", "label", "class")


@dataclass(frozen=True)
class Entry:
    """One tile with its row of the manifest."""

    row: dict[str, str]
    jpeg: bytes


def read_photos(pack: Path) -> dict[str, Image.Image]:
    """The pack's photographs by name: upright, RGB, the longer side at 1,200 pixels."""
    photos = {}
    with tarfile.open(next(pack.glob("*.tar"))) as tar:
        for member in tar:
            stream = tar.extractfile(member)
            if stream is not None:
                photos[Path(member.name).stem] = upright(stream.read())
    return photos


def upright(jpeg: bytes) -> Image.Image:
    """A photograph turned as its camera held it, at the demo's size (Lanczos)."""
    with Image.open(io.BytesIO(jpeg)) as opened:
        image = ImageOps.exif_transpose(opened).convert("RGB")
    scale = LONG_SIDE / max(image.size)
    size = (round(image.width * scale), round(image.height * scale))
    return image.resize(size, Image.Resampling.LANCZOS)


def split_of(left: int, top: int) -> str:
    """The split of the tile at this pixel: blocks of 3 × 3 tiles go to one split together."""
    return "test" if (left // BLOCK + top // BLOCK) % 4 == 0 else "train"


def tiles(photo: Image.Image, name: str, label: int) -> Iterator[Entry]:
    """All whole tiles of a photograph, row by row; what remains at the right and below is left out."""
    for row in range(photo.height // TILE):
        for column in range(photo.width // TILE):
            left, top = column * TILE, row * TILE
            key = f"{name}_r{row:02d}_c{column:02d}"
            values = (key, split_of(left, top), f"{key}.jpg", str(label), name)
            cut = photo.crop((left, top, left + TILE, top + TILE))
            yield Entry(dict(zip(COLUMNS, values, strict=True)), encode(cut))


def encode(tile: Image.Image) -> bytes:
    """The tile as a JPEG without metadata."""
    out = io.BytesIO()
    tile.save(out, "JPEG", quality=JPEG_QUALITY, optimize=True, subsampling="4:2:0")
    return out.getvalue()


def write_shard(path: Path, chosen: Iterable[Entry]) -> None:
    """A tar whose bytes depend on names and contents only."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for entry in chosen:
            info = tarfile.TarInfo(entry.row["file"])
            info.size = len(entry.jpeg)
            info.mode = 0o644
            tar.addfile(info, io.BytesIO(entry.jpeg))


def write_manifest(path: Path, rows: Iterable[dict[str, str]]) -> None:
    """The manifest of the data set."""
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def make(pack: Path, out: Path) -> list[Path]:
    """Write the data set into `out`; the paths written."""
    out.mkdir(parents=True, exist_ok=True)
    photos = read_photos(pack)
    made = [
        entry
        for label, (stem, name) in enumerate(CLASSES.items())
        for entry in tiles(photos[stem], name, label)
    ]
    written = []
    for split in SPLITS:
        shard = out / f"photos-{split}.tar"
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
