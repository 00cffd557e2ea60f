"""Images per second through the crops, and their pixels: the official pipeline against ours.

    python -m benchmarks.crops [--rounds 9] [--only native]

JPEG bytes to 2 global crops of 224 and 8 local crops of 98, official preset, one thread, real photos of
`../shared/data`. CPU time, rounds interleaved, medians. Ours sets photos upright by their EXIF, the
official pipeline does not. They write into memory that is used again, as in the loader. `device` counts the
CPU's part; `native` are the loops that numba compiles.
PSNR: each crop against torchvision's at equal decisions.
"""

import argparse
import io
import math
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.timing import interleaved, table
from benchmarks.torchvision_crops import apply_parameters, official_views
from nexus.data.crops.config import CropConfig
from nexus.data.crops.parameters import UNIFORMS
from nexus.data.images import decode_image
from nexus.data.multicrop import MultiCropAugmentation
from nexus.data.picture import EncodedPicture

SOURCES = {
    "clothing10, 400 x 533": "clothing10/clothing10-train.tar",
    "imagenet-sample, about 500 x 375": "imagenet-sample/imagenet-sample-all.tar",
    "large-photos, 1.9 to 3.1 megapixels": "large-photos/large-photos-all.tar",
}
IMAGES, ROUNDS, DRAWS = 10, 9, 4
CONFIG = CropConfig(local_size=98)


def photos(path: Path) -> list[bytes]:
    """Ten JPEG files of a tar, spread evenly."""
    with tarfile.open(path) as tar:
        members = [m for m in tar if m.isfile() and m.name.lower().endswith((".jpg", ".jpeg"))]
        chosen = members[:: max(1, len(members) // IMAGES)][:IMAGES]
        return [tar.extractfile(member).read() for member in chosen]


def numbers(seed: int) -> np.ndarray:
    """The uniform numbers of one image's crops."""
    return np.random.default_rng(seed).random((10, UNIFORMS))


def candidates(files: list[bytes], kinds: list[bool]) -> dict[str, Callable[[], None]]:
    """One call crops every file once; each round draws other crops."""
    views = official_views(CONFIG)
    rounds = iter(range(10**9))

    def official() -> None:
        for data in files:
            image = Image.open(io.BytesIO(data)).convert("RGB")
            for view in views:
                view(image)

    def engine(recolour: bool, native: bool) -> Callable[[], None]:
        augmentation = MultiCropAugmentation(config=CONFIG, recolour=recolour, native=native)
        rooms = np.empty((2, 3, 224, 224), np.uint8), np.empty((8, 3, 98, 98), np.uint8)

        def run() -> None:
            turn = next(rounds)
            for number, data in enumerate(files):
                drawn = numbers(turn * len(files) + number)
                augmentation.of(EncodedPicture(data, "x"), drawn, lambda chans, kind: rooms)

        return run

    found = {"official (PIL, torchvision)": official}
    for native in kinds:
        name = "native" if native else "libraries"
        found[f"cpu, {name}"] = engine(True, native)
        found[f"device, {name} (CPU part)"] = engine(False, native)
    return found


def nearness(files: list[bytes], native: bool) -> np.ndarray:
    """PSNR in dB of the CPU engine's crops to torchvision's."""
    augmentation = MultiCropAugmentation(config=CONFIG, native=native)
    found = []
    for number, data in enumerate(files):
        image = decode_image(data, "x")
        for draw in range(DRAWS):
            crops = augmentation.of(EncodedPicture(data, "x"), numbers(1000 * draw + number))
            for crop, row in zip([*crops.global_crops, *crops.local_crops], crops.parameters, strict=True):
                error = (crop.float() - apply_parameters(image, row, CONFIG).float()).square().mean().item()
                found.append(10 * math.log10(255**2 / max(error, 1e-3)))
    return np.array(found)


def main() -> None:
    """Print the result as Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rounds", type=int, default=ROUNDS, help="interleaved rounds (default: %(default)s)"
    )
    parser.add_argument("--only", choices=["native", "libraries"], help="one kind of engine; left out: both")
    asked = parser.parse_args()
    kinds = [kind for kind in (False, True) if asked.only in (None, "native" if kind else "libraries")]
    torch.set_num_threads(1)
    root = Path(__file__).resolve().parents[2] / "shared" / "data"
    for title, path in SOURCES.items():
        files = photos(root / path)
        print(f"\n## {title}: {len(files)} photos, {np.mean([len(f) for f in files]) / 1000:.0f} kB\n")
        print(table(interleaved(candidates(files, kinds), asked.rounds), len(files), "images"), flush=True)
        for native in kinds:
            dB = nearness(files, native)
            low, middle = np.quantile(dB, [0.1, 0.5])
            name = "native" if native else "libraries"
            print(f"\nPSNR of {len(dB)} crops in dB, {name}: median {middle:.1f}, a tenth below {low:.1f}")


if __name__ == "__main__":
    main()
